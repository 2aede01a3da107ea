"""Send an artifact, with what is attached to it, to an OCI registry, as `slmops models push` does."""

from __future__ import annotations

from typing import Any

from slmops.core import units
from slmops.core.errors import UsageError
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import FLAG, STRING, Foreseen, Made, told
from slmops.registry import push
from slmops.registry._distribution import Repository, parse

HELP = "send an artifact to an OCI registry: as slmops models push"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, or a name of the registry"),
        "to": told(STRING, "oci:HOST[:PORT]/REPOSITORY:TAG"),
        "move": told(FLAG, "take the tag away from what has it there (false)"),
    },
    "required": ["artifact", "to"],
}
INPUTS = {"artifact": "artifact"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, False, True


def check(keys: dict[str, Any]) -> None:
    if "to" in keys and (parse(keys["to"]).digest or not parse(keys["to"]).tag):
        raise UsageError(f"{keys['to']} names no tag to push to", "end it with :TAG")


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact", "place": "text"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"to {keys['to']}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    digest, place = desk.filed(keys["artifact"]), parse(keys["to"])
    assert place.tag is not None
    with Repository(place) as there:
        over = None if keys.get("move") else ()
        done = push.push(desk.registry, digest, there, place.tag, over=over, watch=desk.watch)
    return Made({"artifact": digest, "place": done.place}, f"{done.place}, {units.size(done.sent)} sent")
