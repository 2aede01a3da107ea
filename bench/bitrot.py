#!/usr/bin/env python3
"""Bits that flip on the disk, as it ages: each must be found by fsck, and one of an artifact's files by verify and at load.

    python bench/bitrot.py [--count N] [--seed N] [--json FILE]

A bit at a time, drawn at random from every file of a small registry, the file's times left as they were: a file as likely as
another, a bit of it as likely as another. The catalog is left out, for it is made again from the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import fuzzseeds  # noqa: F401 - puts tests/ on the path

import crashes
from slmops.core.errors import CorruptInput
from slmops.registry import Registry, fsck
from slmops.registry.policy import Policy


def flip(path: Path, bit: int) -> None:
    """Of the file as it is: its folder may not be written, and hard links go on being links."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(bit // 8)
        (byte,) = handle.read(1)
        handle.seek(bit // 8)
        handle.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)


def missed(root: Path, path: Path) -> str:
    """What did not find a bit of a file that flipped; or nothing."""
    try:
        if fsck.check(root).sound:
            return "fsck finds nothing"
    except CorruptInput:
        pass
    with Registry.open(root, policy=Policy(verify="always")) as registry:
        for row in registry.rows():
            if path.name in row.digest or not any(
                path.name in one.blob.digest for one in registry.manifest(row.digest).layers
            ):
                continue
            for name, act in (("verify", fsck.verify), ("loading", Registry.place)):
                try:
                    act(registry, row.digest)
                    return f"{name} finds nothing"
                except CorruptInput:
                    pass
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="bits (1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    arguments = parser.parse_args()
    began, draw, broken = time.perf_counter(), random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory(prefix="slmops-bitrot-") as scratch:
        root = crashes.prepare(Path(scratch))
        assert fsck.check(root).sound
        files = [*sorted((root / "blobs" / "sha256").iterdir()), root / "index.json", root / "oci-layout"]
        for _ in range(arguments.count):
            path = draw.choice(files)
            bit = draw.randrange(path.stat().st_size * 8)
            flip(path, bit)
            if said := missed(root, path):
                broken.append({"file": path.name, "bit": bit, "said": said})
                print(f"{path.name}, bit {bit}: {said}", flush=True)
            flip(path, bit)
        assert fsck.check(root).sound
    seconds = round(time.perf_counter() - began)
    print(f"{arguments.count} bits of {len(files)} files, {len(broken)} not found, {seconds} s")
    if arguments.json:
        facts = {"bits": arguments.count, "files": len(files), "broken": broken, "seconds": seconds}
        Path(arguments.json).write_text(json.dumps(facts, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
