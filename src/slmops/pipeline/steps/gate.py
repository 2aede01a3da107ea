"""Hold measurements against bounds; the pipeline ends where one is not met (exit code 13). Each bound is held against the
whole 95 % interval of its figure (measure/gates.py); undecided blocks like failed."""

from __future__ import annotations

import dataclasses
from typing import Any

from slmops.core.errors import GateFailed, UsageError
from slmops.measure import gates
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import Foreseen, Made, told
from slmops.pipeline.steps._figures import ASKED, SEVERAL, asks, judge, listed, opened

HELP = "hold measurements against bounds; ends the pipeline where one is not met"
SCHEMA: dict[str, Any] = {
    "properties": {
        "measured": told(SEVERAL, "${steps.NAME.measured}, or a list of such"),
        **ASKED,
        "baseline": told({"type": "string"}, "measurement of the unquantized artifact: tasks may not be lost against it"),
        "require": told(
            {"type": "array", "items": {"enum": list(gates.ADVISING)}}, "against the baseline: speed (2x), memory (50%)"
        ),
    },
    "required": ["measured"],
}
INPUTS = {"measured": "measurement", "baseline": "measurement"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, True, False


def check(keys: dict[str, Any]) -> None:
    if not asks(keys) and not keys.get("require"):
        raise UsageError("this gate asks for nothing", f"give one of: {', '.join([*ASKED, 'require'])}")


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    asked = [*keys.get("gates", ())]
    asked += [f"quality kept >= {keys['min_quality']:g}"] if "min_quality" in keys else []
    asked += [name for name in ("steady", "endured") if keys.get(name)]
    return Foreseen("; ".join([*asked, *keys.get("require", ())]))


def run(keys: dict[str, Any], desk: Desk) -> Made:
    held = [opened(one) for one in listed(keys["measured"])]
    said = [[*judge(one, keys)] for one in held]
    verdicts = tuple(
        dataclasses.replace(each, gate=f"{one.format} {one.scheme} in {one.engine}: {each.gate}") if len(held) > 1 else each
        for one, own in zip(held, said, strict=True)
        for each in own
    )
    stopped = [f"{each.gate}: {each.said}" for each in verdicts if each.stops]
    fault = GateFailed("; ".join(stopped), "the figures stand in the receipt of the pipeline") if stopped else None
    return Made(said=f"{len(verdicts) - len(stopped)} of {len(verdicts)} met", verdicts=verdicts, fault=fault)
