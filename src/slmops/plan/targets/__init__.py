"""Machines that are described, not measured: a TOML file each, here or in the user's own folder.

description = "..."            system, arch             as in plan/hardware.py
cores, memory_gb (10^9 bytes)  usable                   the share of memory that a model may take
bandwidth_gb_s                 of the memory that holds the weights, as a model reads it (about 0.8 of the maker's figure)
disk_gb, features, formats     those that engines there open, the usual one first
[[accelerators]] kind, name, memory_gb (absent where memory is shared)
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core import plugins
from slmops.core.errors import CorruptInput, UsageError
from slmops.plan.hardware import FEATURES, Accelerator, Machine

FOLDER = Path(__file__).resolve().parent
NUMBER = int | float
KEYS: dict[str, Any] = {"description": str, "system": str, "arch": str, "cores": int, "memory_gb": NUMBER, "usable": NUMBER,
        "bandwidth_gb_s": NUMBER, "disk_gb": NUMBER, "features": list, "formats": list, "accelerators": list}  # fmt: skip
OPTIONAL = ("disk_gb", "features", "accelerators")
GB = 1e9


@dataclass(frozen=True)
class Target:
    """A machine that a model is made for, and the formats that can be opened there."""

    description: str
    machine: Machine
    formats: tuple[str, ...]


def own() -> Path:
    """The folder of the user's own targets."""
    home = os.environ.get("SLMOPS_HOME") or os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / ("targets" if os.environ.get("SLMOPS_HOME") else "slmops/targets")


def names() -> tuple[str, ...]:
    """All described machines, the user's own ones too."""
    return tuple(sorted({path.stem for folder in (FOLDER, own()) for path in folder.glob("*.toml")}))


def load(name: str) -> Target:
    """By name, the user's own before ours, or by the path of a .toml file. Raises UsageError naming the ones there are."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"there is no file {name}", "see docs/targets.md for what it holds")
    else:
        found = [
            folder / f"{name}.toml" for folder in (own(), FOLDER) if name in names() and (folder / f"{name}.toml").is_file()
        ]
        if not found:
            raise UsageError(
                f"there is no target called {name!r}", f"one of: {', '.join(names())}; or a .toml file of yours"
            )
        path = found[0]
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorruptInput(f"{path}: {error}", "see docs/targets.md for what it holds") from None
    return _read(path, said)


def _read(path: Path, said: dict[str, Any]) -> Target:
    for key, value in said.items():
        if key not in KEYS or not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise CorruptInput(f"{path}: {key} is not known, or not a {KEYS.get(key, str)}", f"known are: {', '.join(KEYS)}")
    if missing := [key for key in KEYS if key not in said and key not in OPTIONAL]:
        raise CorruptInput(f"{path} does not say {', '.join(missing)}", "see docs/targets.md for what it holds")
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
