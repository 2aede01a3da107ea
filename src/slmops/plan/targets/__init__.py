"""Machines that are described, not measured: a TOML file each, here or in the user's own folder.

description = "..."            system, arch             as in plan/hardware.py
cores, memory_gb (10^9 bytes)  usable                   the share of memory that a model may take
bandwidth_gb_s                 of the memory that holds the weights, as a model reads it (about 0.8 of the maker's figure)
disk_gb, features, formats     those that engines there open, the usual one first
[[accelerators]] kind, name, memory_gb (absent where memory is shared)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core import plugins
from slmops.core.errors import CorruptInput
from slmops.plan._described import Shelf
from slmops.plan.hardware import FEATURES, Accelerator, Machine

NUMBER = int | float
KEYS: dict[str, Any] = {"description": str, "system": str, "arch": str, "cores": int, "memory_gb": NUMBER, "usable": NUMBER,
        "bandwidth_gb_s": NUMBER, "disk_gb": NUMBER, "features": list, "formats": list, "accelerators": list}  # fmt: skip
SHELF = Shelf("targets", Path(__file__).resolve().parent, KEYS, ("disk_gb", "features", "accelerators"), "docs/targets.md")
GB = 1e9


@dataclass(frozen=True)
class Target:
    """A machine that a model is made for, and the formats that can be opened there."""

    description: str
    machine: Machine
    formats: tuple[str, ...]


def names() -> tuple[str, ...]:
    """All described machines, the user's own ones too."""
    return SHELF.names()


def load(name: str) -> Target:
    """By name, the user's own before ours, or by the path of a .toml file. Raises UsageError naming the ones there are."""
    path = SHELF.find(name)
    return _read(path, SHELF.read(path))


def _read(path: Path, said: dict[str, Any]) -> Target:
    if unknown := set(map(str, said.get("features", ()))) - set(FEATURES):
        raise CorruptInput(f"{path}: there is no feature {min(unknown)!r}", f"known are: {', '.join(FEATURES)}")
    if unknown := set(map(str, said["formats"])) - set(plugins.names("formats")):
        raise CorruptInput(
            f"{path}: there is no format {min(unknown)!r}", f"known are: {', '.join(plugins.names('formats'))}"
        )
    if not all(isinstance(one, dict) and "kind" in one for one in said.get("accelerators", ())):
        raise CorruptInput(f"{path}: accelerators are tables with a kind, a name and memory_gb")
    if not 0 < said["usable"] <= 1 or min(said["cores"], said["memory_gb"], said["bandwidth_gb_s"]) <= 0:
        raise CorruptInput(f"{path}: cores, memory_gb and bandwidth_gb_s are above 0, usable is at most 1")
    found = tuple(
        Accelerator(str(one["kind"]), str(one.get("name", one["kind"])), _bytes(one.get("memory_gb")))
        for one in said.get("accelerators", ())
    )
    memory = said["memory_gb"] * GB
    # A card's own memory holds the weights, and is what limits them.
    card = max((one.memory for one in found if one.memory), default=None)
    machine = Machine(
        name=path.stem,
        system=said["system"],
        arch=said["arch"],
        processor=said["description"],
        cores=said["cores"],
        memory=round(memory),
        usable=round(card * 0.9) if card else round(memory * said["usable"]),
        bandwidth=said["bandwidth_gb_s"] * GB,
        disk=_bytes(said.get("disk_gb")),
        features=tuple(said.get("features", ())),
        accelerators=found,
    )
    return Target(said["description"], machine, tuple(said["formats"]))


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else round(gigabytes * GB)
