"""A sample of the sweep of bench/powercut.py: disks that a power cut may leave; and a fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

import crashes
import powercuts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not crashes.usable(), reason="strace does not work here: power cuts are NOT simulated"),
]


@pytest.mark.parametrize("operation", ["add", "tag", "gc"])
def test_nothing_that_was_acknowledged_is_lost(operation: str, tmp_path: Path) -> None:
    crashes.prepare(tmp_path)
    found = list(powercuts.states(operation, tmp_path, draws=1))
    assert len(found) > 20 and {one.acknowledged for one in found} == {False, True}
    for number, state in enumerate(found[:: len(found) // 20]):
        assert powercuts.check(state, tmp_path, retry=number % 5 == 0) == "", state


def test_it_would_be_noticed(tmp_path: Path) -> None:
    """Without any fsync the same operation loses what it acknowledged."""
    crashes.prepare(tmp_path)
    found = [one for one in powercuts.states("add", tmp_path, 1, "os.fsync = lambda handle: None") if one.acknowledged]
    assert found and any(powercuts.check(state, tmp_path, retry=False) for state in found)
