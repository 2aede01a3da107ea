#!/usr/bin/env python3
"""The registry cut off at every system call: killed, the call fails, or the disk takes no more; then checked, and retried.

    python bench/crash.py [--only add gc ...] [--every N] [--json FILE]

About 4,000 cases at 0.8 s each. tests/registry/test_crash.py runs a sample of them; tests/crashes.py says what must
hold after each. Needs strace. A kill leaves the page cache: powercut.py is for what a power cut does to unsynced bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import crashes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*crashes.OPERATIONS, *crashes.NETWORKED]
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    began, ran, broken = time.perf_counter(), 0, []
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="slmops-crash-") as scratch, contextlib.ExitStack() as stack:
        work = Path(scratch)
        crashes.prepare(work)
        stack.enter_context(crashes.served(work))
        for operation in arguments.only:
            found = crashes.cases(operation, work)[:: arguments.every]
            kept = counts.setdefault(operation, {})
            for case in found:
                if said := crashes.check(case, work):
                    broken.append({**dataclasses.asdict(case), "said": said})
                    print(f"{case}: {said}", flush=True)
                kept[case.fault] = kept.get(case.fault, 0) + 1
            ran += len(found)
            print(f"{operation}: {kept}, {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{ran} cases, {len(broken)} broke a promise, {time.perf_counter() - began:.0f} s")
    if arguments.json:
        facts = {"cases": ran, "counts": counts, "broken": broken, "seconds": round(time.perf_counter() - began)}
        Path(arguments.json).write_text(json.dumps(facts, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
