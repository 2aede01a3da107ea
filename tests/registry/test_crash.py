"""A sample of bench/crash.py, which cuts off every call: a third of the renames, and a few of each other kind."""

from __future__ import annotations

from pathlib import Path

import pytest

import crashes
from ociregistry import needs_registry


@pytest.mark.slow
@pytest.mark.skipif(not crashes.usable(), reason="strace does not work here: crashes at system calls are NOT tested")
@pytest.mark.parametrize("operation", ["add", "import", "gc", "rm", "approve", "promote"])
def test_nothing_that_was_acknowledged_is_lost(operation: str, tmp_path: Path) -> None:
    crashes.prepare(tmp_path)
    found = crashes.cases(operation, tmp_path)
    assert len(found) > 40
    renames = [case for case in found if case.call == "rename"]
    others = [case for case in found if case.call != "rename"]
    for case in [*renames[::3], *others[:: len(others) // 8]]:
        assert crashes.check(case, tmp_path) == "", case


@pytest.mark.slow
@needs_registry
@pytest.mark.skipif(not crashes.usable(), reason="strace does not work here: crashes at system calls are NOT tested")
@pytest.mark.parametrize("operation", list(crashes.NETWORKED))
def test_nothing_is_lost_between_two_registries(operation: str, tmp_path: Path) -> None:
    crashes.prepare(tmp_path)
    with crashes.served(tmp_path):
        found = crashes.cases(operation, tmp_path)
        assert len(found) > 40
        for case in found[:: len(found) // 12]:
            assert crashes.check(case, tmp_path) == "", case


@pytest.mark.parametrize("most", [1, 500, 4096, 33_000, 69_999])
@pytest.mark.slow
def test_short_writes_and_a_full_disk_lose_nothing(most: int, tmp_path: Path) -> None:
    crashes.prepare(tmp_path)
    assert crashes.check(crashes.Case("add", most=most, fault="EFBIG"), tmp_path) == ""
