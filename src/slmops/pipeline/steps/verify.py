"""Prove an artifact again in its engines: as `slmops verify` does."""

from __future__ import annotations

from typing import Any

from slmops import compile as compiler
from slmops import prove
from slmops.core import receipt
from slmops.core.errors import EngineMissing
from slmops.engines import _installed
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, texts, told

HELP = "read an artifact back code for code and compare its engines with the reference"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, a name of the registry, or a folder"),
        "engines": told(texts(), "these only; default: all that are installed"),
        "device": told({"enum": ["auto", "cpu", "gpu", "npu"]}, "where engines run (auto)"),
    },
    "required": ["artifact"],
}
INPUTS = {"artifact": "artifact"}
CODE = compiler.WRITERS_CODE
REMEMBERED, JUDGES, ACTS = True, True, False


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {}


def hangs(keys: dict[str, Any], desk: Desk) -> dict[str, Any]:
    names = keys.get("engines") or _engines(keys, desk)
    return {
        "engines": {name: _installed.require(name).version for name in names},
        "processor": receipt.machine()["processor"],
    }


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"in {', '.join(keys.get('engines') or _engines(keys, desk)) or 'no engine'}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    folder = desk.artifact(keys["artifact"])
    if not (keys.get("engines") or _engines(keys, desk)):
        raise EngineMissing(f"no engine that opens {folder} is installed", "slmops doctor names what to install")
    found = prove.verify(folder, device=keys.get("device", "auto"), engines=keys.get("engines"), say=desk.watch.say)
    return Made(said="; ".join(prove.summary(found)))


def _engines(keys: dict[str, Any], desk: Desk) -> list[str]:
    form = receipt.load(desk.artifact(keys["artifact"]))["format"]
    return [name for name in _installed.engines_for(form) if _installed.installed(name)]
