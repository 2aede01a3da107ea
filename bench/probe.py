#!/usr/bin/env python3
"""What this machine can do at most: disk writes, warm reads and memory bandwidth.

    python bench/probe.py [--folder .] [--mb 1024] [--json FILE]

Conversion cannot be faster than reading the checkpoint once and writing the output once; decode cannot be faster than
reading the weights once a token. Rates are the best of --repeat tries, in GB/s.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness

BLOCK = 8 << 20


def write(path: Path, nbytes: int, sync: bool) -> None:
    """Write `nbytes` in blocks to a new file; with `sync`, until the disk has them."""
    block = memoryview(os.urandom(BLOCK))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for _ in range(nbytes // BLOCK):
            os.write(fd, block)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path) -> None:
    """Read a file from the page cache, block by block."""
    buffer = bytearray(BLOCK)
    with path.open("rb", buffering=0) as f:
        while f.readinto(buffer):
            pass


def best(work: Callable[[], object], nbytes: int, repeat: int) -> float:
    """GB/s of the fastest try."""
    seconds = []
    for _ in range(repeat):
        os.sync()
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return round(nbytes / min(seconds) / 1e9, 2)


def probe(folder: Path, mb: int, repeat: int) -> dict[str, float]:
    """Rates in GB/s, by name."""
    import numpy as np

    nbytes = (mb << 20) // BLOCK * BLOCK
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch, "probe")
        found["write, to the page cache"] = best(lambda: write(path, nbytes, False), nbytes, repeat)
        found["write, to the disk"] = best(lambda: write(path, nbytes, True), nbytes, repeat)
        found["read, from the page cache"] = best(lambda: read(path), nbytes, repeat)
    cores = int(harness.machine()["cores"])
    values = np.ones(200_000_000, dtype=np.float32)  # 800 MB: far beyond any cache
    parts = np.array_split(values, cores)
    found["memory read, 1 thread"] = best(values.sum, values.nbytes, repeat)
    with ThreadPoolExecutor(cores) as pool:
        found[f"memory read, {cores} threads"] = best(
            lambda: list(pool.map(lambda p: p.sum(), parts)), values.nbytes, repeat
        )
    return found


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to probe")
    a.add_argument("--mb", type=int, default=1024, help="size of the probe's file, MiB")
    a.add_argument("--repeat", type=int, default=3)
    a.add_argument("--json", type=Path)
    o = a.parse_args()
    found = probe(o.folder, o.mb, o.repeat)
    print(harness.table(["limit", "GB/s"], [[k, f"{v:.2f}"] for k, v in found.items()]))
    harness.write_json(o.json, {"machine": harness.machine(), "gigabytes_per_second": found})


if __name__ == "__main__":
    main()
