"""Engines chosen by what was measured on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import write_toy
from slmops.core import receipt
from slmops.registry import Registry, references
from slmops.registry.fastest import fastest

ENGINES = ("llamacpp", "llamaserver")


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[tuple[Registry, str]]:
    with Registry.open(tmp_path / "home") as registry:
        yield registry, registry.add(write_toy("llama", tmp_path / "toy"), references.named("toy:one"))


def measured(engine: str, levels: dict[str, float], spread: float = 1.0, **machine: Any) -> dict[str, Any]:
    """A document as `slmops measure --attach` files it, of what is read here."""
    loads = {key: {"throughput": {"value": at, "low": at - spread, "high": at + spread}} for key, at in levels.items()}
    return {"measured": {"engine": engine, "concurrency": loads}, "machine": {**receipt.machine(), **machine}}


def test_the_fastest_at_the_nearest_number_in_flight(filed: tuple[Registry, str]) -> None:
    registry, digest = filed
    assert fastest(registry, digest, 4, ENGINES) is None
    registry.attach(digest, "measurement", measured("llamaserver", {"1": 90.0, "16": 100.0, "64": 1.0}))
    assert fastest(registry, digest, 4, ENGINES) is None  # beside what?
    registry.attach(digest, "measurement", measured("llamacpp", {"1": 60.0, "16": 140.0}))
    chosen = {
        at_once: found.engine for at_once in (1, 2, 3, 4, 5, 200) if (found := fastest(registry, digest, at_once, ENGINES))
    }
    assert chosen == {1: "llamaserver", 2: "llamaserver", 3: "llamaserver", 4: "llamaserver", 5: "llamacpp", 200: "llamacpp"}
    found = fastest(registry, digest, 16, ENGINES)
    assert found is not None and found.why == "measured here at 16 in flight, tokens/s: llamacpp 140, llamaserver 100"
    assert fastest(registry, digest, 16, ("llamacpp", "other")) is None
    registry.attach(digest, "measurement", measured("llamacpp", {"16": 50.0}))  # of one engine, the last counts
    found = fastest(registry, digest, 16, ENGINES)
    assert found is not None and found.engine == "llamaserver"


@pytest.mark.parametrize(
    "other",
    [
        measured("llamacpp", {"4": 101.0}, spread=3.0),
        measured("llamacpp", {"4": 900.0}, processor="another"),
        measured("llamacpp", {"4": 900.0}, cores=999),
        {"measured": {"engine": "llamacpp", "concurrency": {"4": {"throughput": 900}}}, "machine": receipt.machine()},
        {"measured": {"engine": ["llamacpp"], "concurrency": 4}, "machine": receipt.machine()},
        {"measured": 1, "machine": 2},
    ],
    ids=["as good as equal", "another processor", "other cores", "no interval", "no name", "nothing"],
)
def test_what_does_not_tell_them_apart_chooses_nothing(filed: tuple[Registry, str], other: dict[str, Any]) -> None:
    registry, digest = filed
    registry.attach(digest, "measurement", measured("llamaserver", {"4": 100.0}))
    registry.attach(digest, "measurement", other)
    assert fastest(registry, digest, 4, ENGINES) is None
