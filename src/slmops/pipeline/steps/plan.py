"""Choose format and bits for a described machine by prediction, as `slmops plan SRC --target` does. Reads no weight."""

from __future__ import annotations

from typing import Any

from slmops.core import plugins, units
from slmops.core.errors import GateFailed
from slmops.passes.quantize import packed
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import COUNT, STRING, Foreseen, Made, texts, told
from slmops.plan import decide, hardware, rank, targets

HELP = "choose format and bits for a target machine by prediction; reads no weight"
SCHEMA: dict[str, Any] = {
    "properties": {
        "model": told(STRING, "a model"),
        "target": told(STRING, "a described machine: a name, or a .toml file (default: this machine)"),
        "formats": told(texts(), "to choose among (default: the target's usual one first)"),
        "schemes": told(texts(), "to choose among (q4, q8)"),
        "max_size": told(STRING, "of the artifact: 1GiB, 800MB, or 60% of the model in 16 bits"),
        "max_memory": told(STRING, "of the engine's process at its peak"),
        "min_speed": told(STRING, "of decoding one sequence: 20tok/s"),
        "context": told(COUNT, "tokens that must fit (4096)"),
    },
    "required": ["model"],
}
INPUTS = {"model": "model"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, True, False  # takes no time, and what is installed may change


def check(keys: dict[str, Any]) -> None:
    decide.read_limits(keys, 0)
    if "target" in keys and not keys["target"].endswith(".toml"):
        targets.load(keys["target"])
    for name in keys.get("formats", ()):
        plugins.load("formats", name.replace("-", "_"))


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"format": "text", "scheme": "text", "engine": "text", "bytes": "number", "memory": "number"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    found = run(keys, desk)
    return Foreseen(found.said, found.outputs)


def run(keys: dict[str, Any], desk: Desk) -> Made:
    model = desk.outline(keys["model"])
    named = keys.get("target", "")
    target = targets.load(str(desk.path(named)) if named.endswith(".toml") else named) if named else None
    machine = target.machine if target else hardware.detect()
    limits = decide.read_limits(keys, model.parameters)
    asked = [name.replace("-", "_") for name in keys.get("formats", ())] or (target.formats if target else None)
    schemes = None if packed(model) else tuple(keys.get("schemes") or (rank.LEAST[0], rank.MORE[0]))
    found = rank.usual(model, machine, limits, asked, target is None, schemes)
    able = rank.fitting(found, machine)
    if not able:
        raise GateFailed(
            f"{model.name}: nothing fits {machine.name} within these limits", "; ".join(decide.relax(found, limits))
        )
    choice, quick = rank.best(able, limits.speed)
    assert choice.memory is not None
    said = f"{choice.named} for {machine.name}: {units.size(choice.size)}, {units.size(choice.memory.total)} of memory"
    said += f", about {choice.speed[1]:.3g} tok/s" + ("" if quick else ", slower than one reads")
    kept = {"format": choice.format.replace("_", "-"), "scheme": choice.scheme, "engine": choice.engine}
    return Made({**kept, "bytes": choice.size, "memory": choice.memory.total}, said)
