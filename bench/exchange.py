#!/usr/bin/env python3
"""Push and pull of a large artifact over loopback, beside `skopeo copy` of the same, with a real registry between.

    python bench/exchange.py [--bytes 1e9] [--runs 3] [--folder DIR]

Needs docker-registry and skopeo. Each run has a fresh registry; the two take turns, and each is a process of its own, as a
user starts it. What skopeo pulled is synced to disk after it, as slmops does by itself. Ratios are of pairs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

from ociregistry import serve
from registry import large, seconds
from slmops.registry import Registry
from slmops.registry.references import named


def skopeo(source: str, target: str) -> None:
    options = ["--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(["skopeo", "copy", *options, source, target], check=True)


def slmops(home: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "slmops", "models", *words],
        check=True, env={**os.environ, "SLMOPS_HOME": str(home)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=1e9)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where to work; its disk is what is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slmops-exchange-", dir=arguments.folder) as scratch:
        work = Path(scratch)
        home, layout, back = work / "home", work / "layout", work / "back"
        with Registry.open(home) as registry:
            registry.add(large(work / "made", int(arguments.bytes)), named("home:q4"), take=True)
        times: dict[str, list[tuple[float, float]]] = {"push": [], "pull": []}
        for number in range(arguments.runs):
            with serve(work / f"a{number}") as server:
                place = f"{server.host}/a/home:q4"
                pushed = seconds(lambda: skopeo(f"oci:{home}:home:q4", f"docker://{place}"))  # noqa: B023
                pulled = seconds(lambda: skopeo(f"docker://{place}", f"oci:{layout}:q4"))  # noqa: B023
                pulled += seconds(lambda: subprocess.run(["sync", "-f", layout], check=True))
                times["pull"].append((seconds(lambda: slmops(back, "pull", f"oci:{place}")), pulled))  # noqa: B023
            shutil.rmtree(work / f"a{number}")
            with serve(work / f"b{number}") as server:
                place = f"oci:{server.host}/b/home:q4"
                (home / "remotes.json").unlink(missing_ok=True)
                times["push"].append((seconds(lambda: slmops(home, "push", "home:q4", place)), pushed))  # noqa: B023
            for folder in (work / f"b{number}", layout, back):
                shutil.rmtree(folder)
        for verb, pairs in times.items():
            ratios = sorted(theirs / ours for ours, theirs in pairs)
            said = ", ".join(f"{one:.2f}" for one in ratios)
            fast = arguments.bytes / 1e6 / statistics.median(ours for ours, _ in pairs)
            print(f"{verb}: {fast:.0f} MB/s; skopeo's time over ours {statistics.median(ratios):.2f} ({said})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
