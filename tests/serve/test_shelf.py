"""What the page is told of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import write_toy
from slmops.registry import Registry, references
from slmops.serve import shelf


def one(name: str, size: int, kl: float | None, rate: float | None, source: str = "s", machine: str = "m") -> dict[str, Any]:
    figures = {"quality.kl": kl, "speed.decode": rate}
    measured = {place: {"value": value, "low": None, "high": None} for place, value in figures.items() if value is not None}
    return {"name": name, "bytes": size, "measured": measured, "source": source, "machine": machine}


def test_fronts_are_drawn_among_what_can_be_compared() -> None:
    told = [
        one("small", 100, 0.01, 50.0),
        one("fast", 150, 0.01, 90.0),  # larger than small and no better; faster
        one("good", 200, 0.001, 40.0),
        one("worse", 210, 0.002, 30.0),  # good is better in all
        one("best", 400, 0.00002, 20.0),
        one("alike", 300, 0.00001, 25.0),  # no difference that counts from best, and smaller
        one("elsewhere", 500, 0.5, 1.0, machine="another"),
        one("stranger", 500, 0.5, 1.0, source="another"),
        one("unmeasured", 1, None, None),
        one("still", 50, 0.9, 0.0),  # no speed: on the front of size alone
    ]
    shelf._fronts(told)
    found = {each["name"]: each["fronts"] for each in told}
    assert found == {
        "small": ["size"],
        "fast": ["speed"],
        "good": ["size", "speed"],
        "worse": [],
        "best": [],
        "alike": ["size", "speed"],
        "elsewhere": ["size", "speed"],
        "stranger": ["size", "speed"],
        "unmeasured": [],
        "still": ["size"],
    }


def test_the_last_measurement_counts_and_strangers_texts_are_plain(tmp_path: Path) -> None:
    root = tmp_path / "home"
    assert shelf.holdings(root) == {"exists": False, "artifacts": [], "more": 0, "alike": 0} and not root.exists()
    with Registry.open(root) as registry:
        digest = registry.add(write_toy("llama", tmp_path / "toy"), references.named("toy:one"))
        (told,) = shelf.holdings(root)["artifacts"]
        assert told["names"] == ["toy:one"] and told["measured"] == {} and told["fronts"] == [] and not told["proven"]
        for rate in (10.0, 20.0):
            measured = {"engine": "llama\x1bcpp", "speed": {"decode": rate}, "quality": {"kl": {"value": 0.1, "low": "x"}}}
            registry.attach(digest, "measurement", {"measured": measured, "machine": {"processor": "<b>\x00", "cores": 2}})
            (told,) = shelf.holdings(root)["artifacts"]
            assert told["measured"]["speed.decode"]["value"] == rate
        assert told["measured"]["quality.kl"] == {"value": 0.1, "low": None, "high": None}
        assert told["engine"] == "llama?cpp" and told["machine"] == "<b>?, 2 cores" and told["fronts"] == ["size", "speed"]
        registry.attach(digest, "measurement", {"measured": ["no object"]})
        (told,) = shelf.holdings(root)["artifacts"]
        assert told["measured"] == {} and told["bytes"] == registry.manifest(digest).nbytes
