"""The main job: candidates predicted, the telling ones made, proven and measured, the best that passes its gates chosen: as
`slmops optimize` does, on this machine or on a cluster (--executor ray)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmops import compile as compiler
from slmops import optimize, search, trials
from slmops.core import plugins, receipt, units
from slmops.core.errors import GateFailed, UsageError
from slmops.measure import artifact, gates, ledger, report, tasks
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import COUNT, SHARE, STRING, Foreseen, Made, texts, told
from slmops.pipeline.steps._figures import said, wrapped
from slmops.plan import decide, hardware

HELP = "choose the best format, bits and engine on this machine within limits: made, proven, measured"
SCHEMA: dict[str, Any] = {
    "properties": {
        "model": told(STRING, "a model"),
        "text": told(STRING, "a file of its own domain, to measure quality on"),
        "tasks": told(STRING, "a file of JSON lines, each a case with its scorer"),
        "calibrate": told(STRING, "a text, other than `text`, by which codes are solved for"),
        "tune": told(COUNT, "passes over it that tune scales and norms (0)"),
        "objective": told(STRING, "speed, size, memory or quality, or two: size,speed (speed)"),
        "min_quality": told(SHARE, "of the model's quality to keep (0.95)"),
        "max_size": told(STRING, "of the artifact: 1GiB, 800MB, or 60% of the model in 16 bits"),
        "max_memory": told(STRING, "of the engine's process at its peak"),
        "min_speed": told(STRING, "of decoding one sequence: 20tok/s"),
        "context": told(COUNT, "tokens that must fit (4096)"),
        "formats": told(texts(), "only these"),
        "budget": told(STRING, "then nothing new is begun: 90s, 10m, 2h (10m)"),
        "gates": told(texts(0), "bounds of figures, besides quality, latency spread, stress and stability"),
        "require": told({"type": "array", "items": {"enum": list(gates.ADVISING)}}, "speed (2x), memory (50%) must be met"),
    },
    "required": ["model", "text"],
}
INPUTS = {"model": "model", "text": "file", "tasks": "file", "calibrate": "file"}
CODE = f"1, {compiler.WRITERS_CODE}, {ledger.CODE}"
REMEMBERED, JUDGES, ACTS, SPREADS = True, True, False, True


def check(keys: dict[str, Any]) -> None:
    search.objectives(keys.get("objective", "speed"))
    units.parse_seconds(keys.get("budget", "10m"))
    decide.read_limits(keys, 0)
    tuple(map(gates.parse, keys.get("gates", ())))
    for name in _formats(keys) or ():
        plugins.load("formats", name)
    if keys.get("tune") and "calibrate" not in keys:
        raise UsageError("`tune` needs a text", "add `calibrate`")


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact", "measured": "measurement", **dict.fromkeys(("format", "scheme", "engine", "kv"), "text")}


def hangs(keys: dict[str, Any], desk: Desk) -> dict[str, Any]:
    return {"machine": receipt.machine(), "executor": desk.executor}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    model = desk.outline(keys["model"])
    found = decide.candidates(model, hardware.detect(), decide.read_limits(keys, model.parameters), _formats(keys))
    kept = [one for one in found if not one.dropped]
    seconds = units.parse_seconds(keys.get("budget", "10m"))
    return Foreseen(f"{len(kept)} candidates, {len(found) - len(kept)} dropped by prediction; a budget of {seconds:,.0f} s")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    model, content, seen = desk.model(keys["model"]), desk.text(keys["text"]), None
    if "calibrate" in keys and (seen := desk.calibration(keys["calibrate"], model)) == content:
        raise UsageError("`calibrate` and `text` are one text: its figures would flatter", "give two of one domain")
    wanted = trials.Wanted(
        decide.read_limits(keys, model.parameters),
        keys.get("min_quality", gates.QUALITY),
        keys.get("objective", "speed"),
        units.parse_seconds(keys.get("budget", "10m")),
        _formats(keys),
        gates=tuple(map(gates.parse, keys.get("gates", ()))),
        required=tuple(keys.get("require", ())),
    )
    cases = tuple(tasks.spread(tasks.read_cases(desk.file(keys["tasks"])))) if "tasks" in keys else ()
    given = trials.Given(wanted, content, cases, seen, keys.get("tune", 0))
    out = desk.work()  # trials stay until there is a choice: a run that was killed goes on from them
    found = optimize.optimize(model, out, given, hardware.detect(out), desk.watch, desk.executor)
    best = found.choice
    if best is None or best.measured is None:
        return Made(said="nothing passed", fault=GateFailed("nothing passed its gates", "; ".join(found.relax)))
    digest = desk.registry.add(Path(best.measured.folder))
    facts = {"measured": artifact.facts(best.measured), "verdicts": best.verdicts, "machine": receipt.machine()}
    desk.registry.attach(digest, "measurement", report.plain(facts))
    one = best.candidate
    known = {"format": one.format.replace("_", "-"), "scheme": one.scheme, "engine": one.engine, "kv": one.kv}
    line = f"{said(best.measured)}; {len(found.trials)} measured, {found.stopped}"
    return Made({"artifact": digest, "measured": wrapped(best.measured, digest), **known}, line, best.verdicts)


def _formats(keys: dict[str, Any]) -> tuple[str, ...] | None:
    return tuple(name.replace("-", "_") for name in keys.get("formats", ())) or None
