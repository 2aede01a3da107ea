#!/usr/bin/env python3
"""The registry cut off at every system call: killed, the call fails, or the disk takes no more; then checked, and retried.

    python bench/crash.py [--only add gc ...] [--every N] [--jobs N] [--log FILE] [--json FILE]

About 6,400 cases at 0.6 s each. With --log a sweep that was interrupted goes on where it stopped.
tests/registry/test_crash.py runs a sample of them; tests/crashes.py says what must hold after each. Needs strace. A kill
leaves the page cache: powercut.py is for what a power cut does to unsynced bytes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import queue
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import crashes


def logged(path: Path | None) -> set[crashes.Case]:
    """Cases that held in an earlier sweep; a last line that broke off counts for nothing."""
    found = set()
    for line in path.read_text().splitlines() if path and path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            case = json.loads(line)
            if not case.pop("said"):
                found.add(crashes.Case(**case))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*crashes.OPERATIONS, *crashes.NETWORKED]
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at once, each in a folder of its own (1)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a line a case; those that held are not run again")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    began = time.perf_counter()
    done = logged(arguments.log)
    counts: dict[str, dict[str, int]] = {}
    broken: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="slmops-crash-") as scratch, contextlib.ExitStack() as stack:
        log = stack.enter_context(arguments.log.open("a")) if arguments.log else None
        free: queue.Queue[Path] = queue.Queue()
        for number in range(arguments.jobs):
            work = Path(scratch) / str(number)
            crashes.prepare(work)
            stack.enter_context(crashes.served(work))
            free.put(work)

        def checked(case: crashes.Case) -> str:
            if case in done:
                return ""
            work = free.get()
            try:
                return crashes.check(case, work)
            except subprocess.TimeoutExpired as error:
                return f"it did not end in {error.timeout} s"
            finally:
                free.put(work)

        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(arguments.jobs))
        for operation in arguments.only:
            kept = counts.setdefault(operation, {})
            found = crashes.cases(operation, Path(scratch) / "0")[:: arguments.every]
            for case, said in zip(found, pool.map(checked, found), strict=True):
                line = {**dataclasses.asdict(case), "said": said}
                if log and case not in done:
                    print(json.dumps(line), file=log, flush=True)
                if said:
                    broken.append(line)
                    print(f"{case}: {said}", flush=True)
                kept[case.fault] = kept.get(case.fault, 0) + 1
            print(f"{operation}: {kept}, {time.perf_counter() - began:.0f} s", flush=True)
    ran = sum(sum(one.values()) for one in counts.values())
    print(f"{ran} cases, {len(broken)} broke a promise, {time.perf_counter() - began:.0f} s")
    if arguments.json:
        facts = {"cases": ran, "counts": counts, "broken": broken, "seconds": round(time.perf_counter() - began)}
        Path(arguments.json).write_text(json.dumps(facts, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
