"""Record who approves an artifact, on which gates: before a name moves that the policy guards, such as production."""

from __future__ import annotations

from typing import Any

from slmops.measure.gates import Verdict
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, told
from slmops.registry import approval, documents

HELP = "record who approves an artifact, on the gates that were measured: as slmops models approve"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, or a name of the registry"),
        "by": told(STRING, "who"),
        "note": told({"type": "string", "maxLength": approval.MOST_TEXT}, "why"),
    },
    "required": ["artifact", "by"],
}
INPUTS = {"artifact": "artifact"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, True, True


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"by {keys['by']}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    digest = desk.filed(keys["artifact"])
    _, found = approval.approve(desk.registry, digest, keys["by"], keys.get("note", ""))
    documents.write(desk.registry, digest)
    verdicts = tuple(Verdict(one.gate, one.passed, one.blocks, one.said, one.applies) for one in found)
    return Made({"artifact": digest}, f"by {keys['by']}, on {len(found)} gates", verdicts)
