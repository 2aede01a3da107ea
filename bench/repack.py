#!/usr/bin/env python3
"""Compare re-packing, what was read packed written packed, with copying the same bytes, in interleaved pairs.

    python bench/repack.py out/gguf:mlx out/gptq:openvino out/mlx:gguf [--repeat 5] [--work DIR] [--json FILE]

A pair SOURCE:FORMAT is converted with slmops, then its output is copied with `cp` and synced (A B A B). Figures are wall
seconds, megabytes of output a second and peak resident memory; the ratio is the conversion's speed over the copy's.
Sources: `slmops convert` makes GGUF and MLX folders, `fuzzseeds.py gptq CHECKPOINT OUT` a GPTQ one of random codes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import convert
import harness
import peers


def pair(words: Sequence[str], source: Path, form: str, scratch: Path) -> dict[str, dict[str, float]]:
    """One conversion and one copy of what it wrote."""
    made, copy = scratch / "made", scratch / "copy"
    for path in (made, copy):
        peers.remove(path)
    harness.warm(source)
    ours = harness.run([*words, "convert", source, "--to", form, "--no-verify", "-o", made], log=scratch / "ours.log")
    nbytes = harness.size(made)
    theirs = harness.run(["sh", "-c", f"cp -r {made} {copy} && sync -f {copy}"])
    for path in (made, copy):
        peers.remove(path)
    return {"ours": convert.entry(ours, nbytes), "cp": convert.entry(theirs, nbytes)}


def table(found: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    rows = []
    for name, runs in found.items():
        walls = {side: [run[side]["wall"] for run in runs] for side in ("ours", "cp")}
        nbytes = runs[0]["ours"]["bytes"]
        speeds = [f"{nbytes / harness.median(walls[side]) / 1e6:.0f}" for side in ("ours", "cp")]
        seconds = [f"{harness.median(walls[side]):.2f}" for side in ("ours", "cp")]
        peak = max(run["ours"]["rss"] for run in runs)
        rows.append([name, f"{nbytes / 1e6:.0f}", *seconds, *speeds, harness.show(harness.ratio(walls["cp"], walls["ours"])),
                     f"{peak / 1e6:.0f}"])  # fmt: skip
    head = ["pair", "output MB", "wall s, slmops", "cp", "MB/s, slmops", "cp", "speed over cp's", "peak RSS MB"]
    return harness.table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="SOURCE:FORMAT")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--slmops", help="the command, if it is not `slmops` on PATH")
    parser.add_argument("--work", type=Path, default=Path(), help="a folder on the disk to write to")
    parser.add_argument("--json", type=Path, help="write every run here")
    o = parser.parse_args()
    words = convert.find_slmops(o.slmops)
    wanted: list[tuple[Path, str]] = []
    for text in o.pairs:
        source, _, form = text.rpartition(":")
        if not Path(source).exists():
            raise SystemExit(f"error: {text} is no SOURCE:FORMAT, or {source} is not there")
        wanted.append((Path(source), form))
    found: dict[str, Any] = {f"{source.name} to {form}": [] for source, form in wanted}
    with tempfile.TemporaryDirectory(dir=o.work, prefix="bench-") as scratch:
        try:
            for number in range(o.repeat):
                for source, form in wanted:
                    runs = found[f"{source.name} to {form}"]
                    runs.append(pair(words, source, form, Path(scratch)))
                    print(f"{number + 1}/{o.repeat} {source.name} to {form}: {runs[-1]['ours']['wall']:.2f} s against "
                          f"{runs[-1]['cp']['wall']:.2f} s", file=sys.stderr, flush=True)  # fmt: skip
        except harness.RunError as error:
            raise SystemExit(f"error: {error}") from error
    print(table(found))
    facts = {"machine": harness.machine()}
    harness.write_json(o.json, facts | {"repack": found})
    print(f"\n{facts['machine']['cpu']}, {facts['machine']['cores']} cores, load {facts['machine']['load_average']}")


if __name__ == "__main__":
    main()
