"""Your own checks on an artifact (docs/checks.md): as `slmops test` runs them. The pipeline ends where one does not hold
(exit code 14)."""

from __future__ import annotations

import dataclasses
from typing import Any

from slmops import run as runner
from slmops.core import receipt, store, yaml12
from slmops.core.errors import CheckFailed
from slmops.engines import _installed
from slmops.measure import checks
from slmops.measure.gates import Verdict
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, told

HELP = "run your own checks of a YAML file on an artifact; ends the pipeline where one does not hold"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, a name of the registry, or a folder"),
        "checks": told(STRING, "a file of checks (docs/checks.md)"),
        "engine": told(STRING, "this engine; default: the preferred one of the format"),
        "device": told({"enum": ["auto", "cpu", "gpu", "npu"]}, "where the engine runs (auto)"),
    },
    "required": ["artifact", "checks"],
}
INPUTS = {"artifact": "artifact", "checks": "file"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = True, True, False


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {}


def hangs(keys: dict[str, Any], desk: Desk) -> dict[str, Any]:
    name = _engine(keys, desk)
    path = desk.file(keys["checks"])
    # The files that checks name are part of what is asked.
    named = {
        text: store.file_digest(path.parent / text) for text in _files(yaml12.read(path)) if (path.parent / text).is_file()
    }
    return {"engine": [name, _installed.require(name).version], "machine": receipt.machine(), "files": named}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"{len(checks.read(desk.file(keys['checks'])).checks)} checks in {_engine(keys, desk)}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    asked = checks.read(desk.file(keys["checks"]))
    artifact = runner.Artifact.open(desk.artifact(keys["artifact"]))
    results = []
    with checks.Subject(artifact, keys.get("engine"), keys.get("device", "auto"), asked.context) as subject:
        for number, one in enumerate(asked.checks, 1):
            desk.watch.say(f"{number} of {len(asked.checks)}: {one.name}")
            results.append(checks.examine(one, subject))
        engine = subject.engine
    verdicts = tuple(Verdict(one.name, one.passed, True, one.said) for one in results)
    desk.registry.attach(
        desk.filed(keys["artifact"]), "checks", {"engine": engine, "checks": [dataclasses.asdict(one) for one in results]}
    )
    said = f"{sum(one.passed is True for one in results)} of {len(results)} hold in {engine}"
    fault = None
    if failed := [one for one in results if one.passed is not True]:
        cure = "; ".join(f"{asked.path}, line {one.line}: {one.name}" for one in failed)
        fault = CheckFailed(f"{len(failed)} of {len(results)} checks did not hold", cure)
    return Made(said=said, verdicts=verdicts, fault=fault)


def _files(value: Any) -> list[str]:
    """What keys called `file` say, anywhere."""
    if isinstance(value, dict):
        own = [value["file"]] if isinstance(value.get("file"), str) else []
        return own + [text for one in value.values() for text in _files(one)]
    return [text for one in value for text in _files(one)] if isinstance(value, list) else []


def _engine(keys: dict[str, Any], desk: Desk) -> str:
    return runner.choose_engine(runner.Artifact.open(desk.artifact(keys["artifact"])).format, keys.get("engine"))
