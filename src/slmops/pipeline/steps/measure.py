"""Quality against the source, tasks, speed and memory of an artifact in its engine: as `slmops measure` takes them. The
figures are attached to the artifact."""

from __future__ import annotations

from typing import Any

from slmops import run as runner
from slmops.core import receipt
from slmops.core.errors import UsageError
from slmops.engines import _installed
from slmops.measure import artifact as measuring
from slmops.measure import gates, ledger, report, tasks
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import COUNT, FLAG, STRING, Foreseen, Made, told
from slmops.pipeline.steps._figures import said, wrapped

HELP = "take quality, tasks, speed and memory of an artifact in its engine, each with its interval"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, a name of the registry, or a folder"),
        "against": told(STRING, "the unquantized model; needs text"),
        "text": told(STRING, "a file of the model's own domain; needs against"),
        "tasks": told(STRING, "a file of JSON lines, each a case with its scorer"),
        "seconds": told({"type": "number", "exclusiveMinimum": 0, "maximum": 86400}, "for the tasks (60)"),
        "runs": told({**COUNT, "minimum": 1, "maximum": 1000}, "of the speed (3)"),
        "engine": told(STRING, "this engine; default: the preferred one of the format"),
        "device": told({"enum": ["auto", "cpu", "gpu", "npu"]}, "where the engine runs (auto)"),
        "kv": told({"enum": ["auto", "f32", "f16", "q8"]}, "precision of the KV cache (auto)"),
        "endure": told(FLAG, "the stress and stability runs too (false)"),
    },
    "required": ["artifact"],
}
INPUTS = {"artifact": "artifact", "against": "model", "text": "file", "tasks": "file"}
CODE = ledger.CODE
REMEMBERED, JUDGES, ACTS = True, False, False


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"measured": "measurement"}


def hangs(keys: dict[str, Any], desk: Desk) -> dict[str, Any]:
    name = _engine(keys, desk)
    return {"engine": [name, _installed.require(name).version], "machine": receipt.machine()}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    name = _engine(keys, desk)
    what = [*(["quality"] if "text" in keys else []), *(["tasks"] if "tasks" in keys else []), "speed", "memory"]
    return Foreseen(f"{', '.join(what)} in {name}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    if ("text" in keys) != ("against" in keys):
        raise UsageError("`against` and `text` belong together", "give the unquantized model and a text, or neither")
    folder, content = desk.artifact(keys["artifact"]), desk.text(keys["text"]) if "text" in keys else None
    cases = tasks.spread(tasks.read_cases(desk.file(keys["tasks"]))) if "tasks" in keys else []
    with desk.registry.scratch() as scratch:
        text = measuring.Text(desk.model(keys["against"]), content, scratch) if content is not None else None
        found = measuring.measure(
            folder,
            keys.get("engine"),
            text=text,
            cases=cases,
            seconds=keys.get("seconds", 60.0),
            runs=keys.get("runs", 3),
            device=keys.get("device", "auto"),
            kv=keys.get("kv", "auto"),
            say=desk.watch.say,
        )
        if keys.get("endure"):
            desk.watch.say("stress and stability")
            found = measuring.endure(found, text, device=keys.get("device", "auto"))
    digest = desk.filed(keys["artifact"])
    facts = {"measured": measuring.facts(found), "verdicts": [], "machine": receipt.machine()}
    desk.registry.attach(digest, "measurement", report.plain(facts))
    # Speeds that varied too much to pass a gate are taken again by the next run.
    return Made({"measured": wrapped(found, digest)}, said(found), keep=not gates.varied(found))


def _engine(keys: dict[str, Any], desk: Desk) -> str:
    return runner.choose_engine(runner.Artifact.open(desk.artifact(keys["artifact"])).format, keys.get("engine"))
