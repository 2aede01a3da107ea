"""Two operations on one registry at once, each slowed at random where it meets the file system; bench/races.py runs many."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import crashes
from slmops.registry import Registry, gc

PAIRS = (
    ("add", "add"), ("add", "take"), ("add", "import"), ("add", "gc"), ("add", "reindex"), ("add", "repair"), ("add", "tag"),
    ("take", "gc"), ("import", "import"), ("import", "gc"), ("import", "reindex"), ("attach", "gc"), ("attach", "attach"),
    ("tag", "tag"), ("tag", "rm"), ("tag", "gc"), ("rm", "rm"), ("rm", "gc"), ("gc", "gc"), ("gc", "place"),
    ("place", "place"), ("place", "repair"), ("reindex", "gc"), ("reindex", "rm"), ("repair", "import"),
    ("repair", "repair"),
)  # fmt: skip
NETWORKED = (
    ("pull hub", "pull hub"), ("pull oci", "pull oci"), ("pull hub", "gc"), ("pull oci", "gc"), ("pull hub", "reindex"),
    ("pull oci", "add"), ("pull oci", "import"), ("pull hub", "pull oci"), ("push", "gc"), ("push", "push"),
)  # fmt: skip
"""Within crashes.served()."""
EXPECTED = {
    frozenset({"pull hub", "pull oci"}): "is sha256:",
    frozenset({"add", "tag"}): "is sha256:",
    frozenset({"rm"}): "has no artifact",
}
"""Pairs of which one may be refused, and what it then says: two artifacts for one name, a name that went meanwhile."""
SLOWED = """
import fcntl, random, time
random.seed({seed!r})
def slowed(function):
    def waits(*words, **named):
        if random.random() < {share}:
            time.sleep(random.random() * {longest})
        return function(*words, **named)
    return waits
for place, name in [(fcntl, "flock")] + [(os, name) for name in (
    "fsync", "open", "replace", "rename", "link", "unlink", "utime", "scandir", "chmod", "stat", "mkdir", "rmdir",
)]:
    setattr(place, name, slowed(getattr(place, name)))
open(work / "ready.{number}", "w").close()
until = time.monotonic() + 60
while not all((work / f"ready.{{number}}").exists() for number in range(2)) and time.monotonic() < until:
    time.sleep(0.001)
"""


@dataclass(frozen=True)
class Race:
    """Two operations, and what draws their pauses."""

    pair: tuple[str, str]
    seed: int


def drawn(count: int, seed: int = 0, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Race]:
    """So many races, every pair in turn."""
    return [Race(pairs[number % len(pairs)], seed + number) for number in range(count)]


def check(race: Race, work: Path) -> str:
    """Run both at once on a fresh copy; what does not hold afterwards, or nothing."""
    root = crashes.fresh(work)
    draw = random.Random(race.seed)
    share, longest = draw.choice([0.05, 0.3, 1.0]), draw.choice([0.002, 0.01, 0.05])
    running = []
    shutil.rmtree(work / "hf", ignore_errors=True)  # what the Hub's own client keeps
    for number in range(2):
        (work / f"ready.{number}").unlink(missing_ok=True)
    for number, operation in enumerate(race.pair):
        before = SLOWED.format(seed=f"{race.seed}.{number}", share=share, longest=longest, number=number)
        words = crashes.command(operation, root, work, 0, before)
        own = crashes.environment(operation, work)
        running.append(subprocess.Popen(words, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        ended = [one.communicate(timeout=120) for one in running]
    finally:
        for one in running:
            one.kill()
    refused = [error for out, error in ended if "done" not in out]
    expected = EXPECTED.get(frozenset(race.pair))
    if refused and (expected is None or len(refused) > 1 or expected not in refused[0]):
        return f"refused: {[error.splitlines()[-1:] for error in refused]}"
    done: dict[str, bool] = {}
    for operation, (out, _) in zip(race.pair, ended, strict=True):
        done[operation] = done.get(operation, False) or "done" in out
    try:
        if said := crashes.sound(root, done):
            return said
        with Registry.open(root) as registry:
            gc.sweep(registry, 0)
        return crashes.sound(root, done)
    except Exception as error:  # whatever it is, it is what is looked for
        return f"afterwards: {type(error).__name__}: {error}"
