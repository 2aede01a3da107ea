#!/usr/bin/env python3
"""The registry after a power cut at any moment: every prefix of an operation's system calls, without what was not synced.

    python bench/powercut.py [--only add gc ...] [--draws N] [--retry N] [--json FILE]

tests/powercuts.py says how calls are recorded and which disks a cut may leave; tests/crashes.py what must hold of each.
tests/registry/test_powercut.py runs a sample. Needs strace.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import crashes
import powercuts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(crashes.OPERATIONS), choices=list(crashes.OPERATIONS))
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="torn disks of each prefix (4)")
    parser.add_argument("--retry", type=int, default=5, metavar="N", help="try the operation again on each N-th disk (5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    began, broken = time.perf_counter(), []
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="slmops-powercut-") as scratch:
        work = Path(scratch)
        crashes.prepare(work)
        for operation in arguments.only:
            kept = counts.setdefault(operation, {})
            for number, state in enumerate(powercuts.states(operation, work, arguments.draws)):
                if said := powercuts.check(state, work, retry=not number % arguments.retry):
                    broken.append({"operation": operation, "prefix": state.prefix, "kind": state.kind, "said": said})
                    print(f"{operation}, {state.prefix} calls, the last {state.last}, {state.kind}: {said}", flush=True)
                kind = state.kind.split()[0]
                kept[kind] = kept.get(kind, 0) + 1
            print(f"{operation}: {kept}, {time.perf_counter() - began:.0f} s", flush=True)
    ran = sum(sum(one.values()) for one in counts.values())
    print(f"{ran} disks, {len(broken)} broke a promise, {time.perf_counter() - began:.0f} s")
    if arguments.json:
        facts = {"disks": ran, "counts": counts, "broken": broken, "seconds": round(time.perf_counter() - began)}
        Path(arguments.json).write_text(json.dumps(facts, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
