#!/usr/bin/env python3
"""A server at mixed load for minutes or hours: kills of workers, clients that leave, evictions, an alias that moves.

    python bench/soak.py [--minutes N] [--at-once N] [--every SECONDS] [--seed N] [--json FILE]

tests/soaking.py has what is done and held to; tests/serve/test_soak.py runs twenty seconds. Exit code 1: an answer was
wrong, a failure was not a well-formed error that may be tried again, or a place was still taken at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import soaking

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "home"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="(60)")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="clients (8)")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between troubles, in the mean (10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slmops-soak-") as scratch:
        seen = soaking.soak(
            Path(scratch),
            SAMPLE,
            60 * arguments.minutes,
            at_once=arguments.at_once,
            every=arguments.every,
            seed=arguments.seed,
        )
    told = {**vars(seen), "memory": None, "started": len(seen.started), "well": seen.well}
    print(json.dumps({**told, "wrong": seen.wrong[:10], "malformed": seen.malformed[:10]}, indent=1))
    kept = [size for _, size in seen.memory]
    print(
        f"{seen.seconds:.0f} s: {seen.answered} right answers ({seen.late} of an alias's old version, late), "
        f"{len(seen.wrong)} wrong; {seen.left} left; "
        f"{sum(seen.refused.values())} told to come again, {len(seen.malformed)} failed otherwise; {seen.kills} kills, "
        f"{seen.moves} moves, {seen.evictions} evictions; {seen.busy} places taken, "
        f"{seen.orphans} processes left at the end; memory "
        f"{min(kept) / 1e6:.0f} to {max(kept) / 1e6:.0f} MB, {seen.slope / 1e6:+.2f} MB a minute "
        f"(standard error {seen.spread / 1e6:.2f}); files {seen.files[0]} -> {seen.files[1]}"
    )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**told, "memory": seen.memory}))
    return 0 if seen.well else 1


if __name__ == "__main__":
    sys.exit(main())
