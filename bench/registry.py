#!/usr/bin/env python3
"""What the registry costs: adding a large file beside sha256sum and cp, opening, listing many artifacts, memory.

    python bench/registry.py [--bytes 4e9] [--artifacts 10000] [--runs 3] [--folder DIR]

Each figure is the median of the runs; sha256sum and cp take turns with add, on the same disk, and ratios are of turns. The
page cache is warm.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

from filed import artifact
from slmops.core import receipt
from slmops.registry import Registry
from slmops.registry.blobs import Blob
from slmops.registry.index import Index
from slmops.registry.manifest import MODEL, Layer, config, model
from slmops.registry.references import Reference, named

PAUSE = 5.0


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def large(folder: Path, size: int) -> Path:
    """An artifact whose weights are `size` random bytes."""
    made = artifact(folder)
    block = os.urandom(1 << 20)
    with (made / "model.gguf").open("wb") as handle:
        for start in range(0, size, len(block)):
            handle.write(start.to_bytes(8, "little") + block[8 : min(len(block), size - start)])
    facts = receipt.load(made)
    receipt.save(made, {**facts, "files": {**facts["files"], "model.gguf": (made / "model.gguf").stat().st_size}})
    return made


def adding(work: Path, size: int, runs: int) -> None:
    made = large(work / "large", size)
    source, times = made / "model.gguf", {"sha256sum": [], "cp + sync": [], "add": [], "add, moved": [], "open": []}  # type: ignore[var-annotated]

    def copy() -> None:
        subprocess.run(["cp", source, work / "copy" / "x"], check=True)
        subprocess.run(["sync", work / "copy" / "x"], check=True)

    def anew(folder: Path) -> None:
        """All begin alike: a hypervisor takes back memory that was let go, and gives it slowly."""
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
        time.sleep(PAUSE)

    subprocess.run(["sha256sum", source], check=True, capture_output=True)
    for _ in range(runs):
        times["sha256sum"].append(seconds(lambda: subprocess.run(["sha256sum", source], check=True, capture_output=True)))
        anew(work / "copy")
        (work / "copy").mkdir()
        times["cp + sync"].append(seconds(copy))
        for name, take in (("add", False), ("add, moved", True)):
            root = work / "home"
            shutil.rmtree(root, ignore_errors=True)
            with Registry.open(root) as registry, registry.scratch() as scratch:
                folder = shutil.copytree(made, scratch / "made") if take else made
                anew(work / "copy")
                times[name].append(seconds(lambda f=folder, t=take: registry.add(f, named("large"), take=t)))  # type: ignore[misc]
        opened(work / "home")
        times["open"].append(seconds(lambda: opened(work / "home")))
    for name, taken in times.items():
        print(f"{name:12} {statistics.median(taken):8.3f} s  {size / statistics.median(taken) / 1e6:12,.0f} MB/s")
    slower = map(max, times["sha256sum"], times["cp + sync"])
    ratios = sorted(theirs / ours for ours, theirs in zip(times["add"], slower, strict=True))
    said = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
    print(f"add, as fast as the slower of sha256sum and cp + sync: {said}; the aim is 0.8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak of this process: {peak / 1e6:.0f} MB")


def opened(root: Path) -> Path:
    with Registry.open(root) as registry:
        return registry.place(registry.resolve("large"))


def listing(work: Path, count: int, runs: int) -> None:
    """Manifests written straight into the layout, as another OCI tool would; then the first look, and later ones."""
    root = work / "many"
    with Registry.open(root) as registry:
        folder = registry.blobs.folder
    facts, index = receipt.load(artifact(work / "small")), Index()
    for number in range(count):
        layers = [Layer("model.gguf", Blob(f"sha256:{number:064x}", 1000), "weight")]
        described = config({**facts, "name": f"model-{number}"}, layers)
        content = model({**facts, "name": f"model-{number}"}, Blob.of(described), layers, [])
        for one in (described, content):
            (folder / Blob.of(one).digest.removeprefix("sha256:")).write_bytes(one)
        index.add(Blob.of(content).digest, len(content), MODEL)
        index.tags[Reference(f"model-{number}", "q4")] = Blob.of(content).digest
    index.write(root)
    print(f"{count:,} artifacts: the first look reads every manifest: {seconds(lambda: Registry.open(root).close()):.2f} s")

    def look() -> None:
        with Registry.open(root) as registry:
            assert len(registry.rows()) == count

    print(f"open and list: {statistics.median(seconds(look) for _ in range(runs)) * 1000:.0f} ms")
    command = [sys.executable, "-m", "slmops", "models", "ls"]
    environment = {**os.environ, "SLMOPS_HOME": str(root)}
    shown = [seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=environment)) for _ in range(runs)]
    print(f"slmops models ls, the whole process: {statistics.median(shown) * 1000:.0f} ms")
    with Registry.open(root) as registry:
        print(f"a further tag: {seconds(lambda: registry.tag('model-0:q4', named('x'))) * 1000:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=4e9)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to measure (default: the system's place for temporary files)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slmops-registry-", dir=arguments.folder) as scratch:
        listing(Path(scratch), arguments.artifacts, arguments.runs)
        adding(Path(scratch), int(arguments.bytes), arguments.runs)


if __name__ == "__main__":
    main()
