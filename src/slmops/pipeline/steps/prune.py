"""Leave out layers, MLP channels or tokens that a text does not need: as `slmops prune` does. Written only if it keeps its
quality."""

from __future__ import annotations

from typing import Any

from slmops import compile as compiler
from slmops import pruning
from slmops.core import units
from slmops.core.errors import GateFailed
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import COUNT, FLAG, SHARE, STRING, Foreseen, Made, told

HELP = "leave out tokens, layers or MLP channels that a text does not need; the result must keep its quality"
SCHEMA: dict[str, Any] = {
    "properties": {
        "model": told(STRING, "an unquantized model"),
        "text": told(STRING, "of its domain: two thirds choose, the rest measures"),
        "vocabulary": told(FLAG, "keep the tokens that the text uses, and all bytes (false)"),
        "vocabulary_size": told(COUNT, "the same, filled up to so many"),
        "layers": told(COUNT, "drop so many"),
        "width": told(SHARE, "of the MLPs' channels to keep"),
        "tokens": told(COUNT, "that choose layers and channels (2048)"),
        "min_quality": told(SHARE, "of the model's quality to keep (0.95)"),
    },
    "required": ["model", "text"],
}
INPUTS = {"model": "model", "text": "file"}
CODE = f"1, {compiler.WRITERS_CODE}"
REMEMBERED, JUDGES, ACTS = True, True, False


def check(keys: dict[str, Any]) -> None:
    _wanted(keys)


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact", "model": "artifact", "parameters": "number"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    desk.file(keys["text"])
    return Foreseen(f"of {units.count(desk.outline(keys['model']).parameters)} parameters")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    source = desk.model(keys["model"])
    pruned = pruning.prune(source, desk.calibration(keys["text"], source), _wanted(keys), desk.watch.say)
    before, after = pruned.facts["parameters"]
    said = f"{units.count(before)} to {units.count(after)} parameters; {pruned.verdict.said}"
    if pruned.verdict.stops:
        cure = "prune less, give a longer text, or ask for less with `min_quality`"
        return Made(said=said, verdicts=(pruned.verdict,), fault=GateFailed(f"quality: {pruned.verdict.said}", cure))
    with desk.registry.scratch() as scratch:
        (made,) = compiler.convert(pruned.model, ["huggingface"], compiler.KEEP, scratch / "made", watch=desk.watch)
        if made.failure is not None:
            raise made.failure
        digest = desk.registry.add(made.folder, take=True)
    return Made({"artifact": digest, "model": digest, "parameters": after}, said, (pruned.verdict,))


def _wanted(keys: dict[str, Any]) -> pruning.Wanted:
    names = ("vocabulary", "vocabulary_size", "layers", "width", "tokens")
    given = {name: keys[name] for name in names if name in keys}
    return pruning.Wanted(**given, **({"quality": keys["min_quality"]} if "min_quality" in keys else {}))
