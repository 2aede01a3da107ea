"""Choose among measured artifacts the best that meets its gates; the pipeline ends where none does (exit code 13)."""

from __future__ import annotations

import math
from typing import Any

from slmops import search
from slmops.core.errors import GateFailed
from slmops.measure.artifact import Measured
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import Foreseen, Made, texts, told
from slmops.pipeline.steps._figures import ASKED, asks, judge, opened, said

HELP = "choose among measured artifacts the best that meets its gates"
SCHEMA: dict[str, Any] = {
    "properties": {
        "measured": told(texts(), "those to choose from: a list of ${steps.NAME.measured}"),
        "by": told({"enum": list(search.OBJECTIVES)}, "what is to be best"),
        **ASKED,
    },
    "required": ["measured", "by"],
}
INPUTS = {"measured": "measurement"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, True, False


def check(keys: dict[str, Any]) -> None:
    asks(keys)


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact", "measured": "measurement", "format": "text", "scheme": "text", "engine": "text"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"the best of {len(keys['measured'])} by {keys['by']}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    held = [(value, opened(value)) for value in keys["measured"]]
    passed, lacking = [], []
    for value, one in held:
        stops = [each for each in judge(one, keys) if each.stops]
        if stops or not math.isfinite(cost(one, keys["by"])):
            lacks = "; ".join(f"{each.gate}: {each.said}" for each in stops) or f"its {keys['by']} was not taken"
            lacking.append(f"{one.format} in {one.engine}: {lacks}")
        else:
            passed.append((value, one))
    if not passed:
        fault = GateFailed("nothing passed its gates: " + "; ".join(lacking), "ask for less, or offer other artifacts")
        return Made(said="none passed", fault=fault)
    value, best = min(passed, key=lambda pair: cost(pair[1], keys["by"]))
    known = {"format": best.format.replace("_", "-"), "scheme": best.scheme, "engine": best.engine}
    line = f"{said(best)}; {len(passed)} of {len(held)} passed"
    return Made({"artifact": value["artifact"], "measured": value, **known}, line)


def cost(one: Measured, by: str) -> float:
    """The figure, the smaller the better; infinite where it was not taken."""
    if by == "size":
        return one.bytes
    if by == "memory":
        return one.peak
    if by == "quality":
        return one.quality.kl.value if one.quality else math.inf
    return 1 / one.speed.decode if one.speed and one.speed.decode else math.inf
