#!/usr/bin/env python3
"""Two operations on one registry at once, with pauses drawn at random where they meet the file system; then checked.

    python bench/races.py [--count N] [--seed N] [--json FILE]

tests/interleavings.py has the pairs. tests/registry/test_races.py runs a sample. Needs docker-registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import crashes
import interleavings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, metavar="N", help="races (400)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="where to begin")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    began, broken = time.perf_counter(), []
    pairs = (*interleavings.PAIRS, *interleavings.NETWORKED)
    races = interleavings.drawn(arguments.count, arguments.seed, pairs)
    with tempfile.TemporaryDirectory(prefix="slmops-races-") as scratch, contextlib.ExitStack() as stack:
        work = Path(scratch)
        crashes.prepare(work)
        stack.enter_context(crashes.served(work))
        for race in races:
            if said := interleavings.check(race, work):
                broken.append({"pair": race.pair, "seed": race.seed, "said": said})
                print(f"{race}: {said}", flush=True)
    seconds = round(time.perf_counter() - began)
    print(f"{len(races)} races of {len(pairs)} pairs, {len(broken)} broke a promise, {seconds} s")
    if arguments.json:
        facts = {"races": len(races), "pairs": pairs, "broken": broken, "seconds": seconds}
        Path(arguments.json).write_text(json.dumps(facts, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
