"""Searches in tests: how they are run on a machine that others use, and what they leave in their folder."""

from __future__ import annotations

from pathlib import Path

CALM = ("--gate", "speed.spread<=100", "--gate", "stability.slowdown<=100")
"""Bounds in the place of ours: whether the machine is calm is not what these tests ask."""


def remembered(out: Path) -> dict[Path, int]:
    """Measurements that a second search takes over, and when each was written."""
    return {one: one.stat().st_mtime_ns for one in (out / ".measurements").glob("*.json")}


def unchanged(before: dict[Path, int]) -> bool:
    return all(path.stat().st_mtime_ns == changed for path, changed in before.items())
