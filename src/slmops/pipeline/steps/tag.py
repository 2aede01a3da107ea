"""Give an artifact a name of the registry: what stages and promotes it. A name of another artifact moves only when told.

A name that the registry's policy guards (production, by default) moves only onto what was approved: an `approve` step.
"""

from __future__ import annotations

from typing import Any

from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import FLAG, STRING, Foreseen, Made, told
from slmops.registry import references

HELP = "give an artifact a name in the registry: stage it, promote it"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, or a name of the registry"),
        "name": told(STRING, "NAME[:TAG], such as home:staging"),
        "move": told(FLAG, "take the name away from what has it now (false)"),
    },
    "required": ["artifact", "name"],
}
INPUTS = {"artifact": "artifact"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, False, True


def check(keys: dict[str, Any]) -> None:
    references.named(keys["name"])


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact", "name": "text"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    name = references.named(keys["name"])
    before = desk.registry.catalog.tagged(name.name, name.tag)
    return Foreseen(f"{name}" + (f", which is {before[:19]} now" if before else ", a new name"))


def run(keys: dict[str, Any], desk: Desk) -> Made:
    name, digest = references.named(keys["name"]), desk.filed(keys["artifact"])
    before = desk.registry.catalog.tagged(name.name, name.tag)
    desk.registry.tag(digest, name, replace=keys.get("move", False))
    moved = f", which was {before[:19]}" if before not in (None, digest) else ""
    return Made({"artifact": digest, "name": str(name)}, f"{name} is {digest[:19]}{moved}")
