"""What a search leaves in its folder, for tests of what is remembered."""

from __future__ import annotations

import json
from pathlib import Path

from slmops.measure import gates


def remembered(out: Path) -> dict[Path, int]:
    """Measurements that a second search takes over, and when each was written: not speeds that a busy machine took."""
    found = list((out / ".measurements").glob("*.json"))
    return {one: one.stat().st_mtime_ns for one in found if json.loads(one.read_text())["speed"]["spread"] <= gates.SPREAD}


def unchanged(before: dict[Path, int]) -> bool:
    return all(path.stat().st_mtime_ns == changed for path, changed in before.items())
