"""How near does the search of `slmops optimize` come to measuring everything, and in what share of the time?

    python bench/search.py measure samples/home out/search     # every format x scheme x engine here; resumable; long
    python bench/search.py retime out/search                   # the speeds once more, with more runs, on a quiet machine
    python bench/search.py replay samples/home out/search      # the search on those records, in many conditions

`measure` makes, proves and measures each candidate once and notes the seconds. `replay` decides as `slmops optimize` does,
but reads each figure from the records: its time is the sum of the noted seconds of what was measured, the unquantized
baseline included and each artifact's making counted once. The exhaustive time is that of all candidates that
predictions leave within the limits. Hypervolumes are on logarithmic axes, from a point behind the worst that passes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np

import slmops
from slmops import compile as compiler
from slmops import forecast, optimize, prove, run, search, source
from slmops.core import plugins, receipt
from slmops.core.errors import SlmopsError, Unsupported
from slmops.core.model import Model
from slmops.engines import Options
from slmops.measure import artifact, speed, statistics
from slmops.passes import activations
from slmops.passes.quantize import chooser
from slmops.plan import decide, hardware, memory
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine

Records = dict[tuple[str, str, str], dict[str, Any]]
GOAL, GOAL_TIME = 0.98, 0.15
ROUNDS, RUNS = 3, 5
POSITIONS = artifact.WINDOW * artifact.WINDOWS
CONTEXT = 1024


def schemes(model: Model) -> tuple[str, ...]:
    """Every scheme that can be made without a text: a file in quantize/, or named by a format as its own."""
    found = []
    for name in plugins.names("quantize"):
        try:
            chooser(name)
        except Unsupported:
            continue
        found += [] if activations.told(name) else [name]
    native = [name for form in memory.writers() for name in decide.schemes_of(form, model, Limits(context=CONTEXT))]
    return tuple(dict.fromkeys([*found, *native]))


def listed(model: Model, machine: Machine, limits: Limits, names: tuple[str, ...] | None) -> list[Candidate]:
    """What can be made and run here, and for MLX is more than a stand-in."""
    found = decide.candidates(model, machine, limits, schemes=names)
    return [one for one in found if not one.dropped.startswith("not possible") and not prove.emulated(one.engine)]


def measure(where: str, folder: Path) -> None:
    """Append one line of JSON for each candidate that the records do not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    model, machine = source.load(where), hardware.detect()
    head = folder / "machine.json"
    if not head.exists():
        facts = {"machine": dataclasses.asdict(machine), "kind": receipt.machine(), "slmops": slmops.__version__}
        head.write_text(json.dumps({**facts, "versions": compiler.versions()}, indent=1) + "\n")
    records = folder / "records.jsonl"
    known = {(one["format"], one["scheme"], one["engine"]) for one in _lines(records)}
    todo = [one for one in listed(model, machine, Limits(context=CONTEXT), schemes(model)) if _name(one) not in known]
    content = (Path(where) / "eval" / "text.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as scratch:
        text = artifact.Text(model, content, Path(scratch))
        for number, one in enumerate(todo):
            print(f"{number + 1}/{len(todo)} {' '.join(_name(one))}", flush=True)
            with records.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(_record(model, one, folder / "made", text)) + "\n")


def _record(model: Model, one: Candidate, made: Path, text: artifact.Text) -> dict[str, Any]:
    found: dict[str, Any] = {"format": one.format, "scheme": one.scheme, "engine": one.engine}
    _ = text.reference  # computed once, and no candidate's own cost
    began = time.perf_counter()
    try:
        (converted,) = compiler.convert(model, [one.format], one.scheme, made / one.scheme / one.format)
        if converted.failure is not None:
            raise converted.failure
        found["made"], began = time.perf_counter() - began if converted.fresh else None, time.perf_counter()
        taken = artifact.measure(converted.folder, one.engine, text=text, context=CONTEXT, runs=5)
    except SlmopsError as error:
        return {**found, "seconds": time.perf_counter() - began, "failure": str(error)}
    return {**found, "seconds": time.perf_counter() - began, "measured": artifact.facts(taken)}


def retime(folder: Path) -> None:
    """Replace each record's speed by the median over rounds in which all take their turns, so that drift meets all alike."""
    records = _lines(folder / "records.jsonl")
    held = [one for one in records if "measured" in one]
    decodes: list[list[float]] = [[] for _ in held]
    for turn in range(ROUNDS):
        for number, one in enumerate(held):
            made = run.Artifact.open(folder / "made" / one["scheme"] / one["format"])
            with run.open_worker(made, one["engine"], Options(context=CONTEXT)) as worker:
                decodes[number] += speed.measure(worker, [5] * artifact.PROMPT, 64, RUNS).decodes
            said = f"{harness.median(decodes[number]):,.0f} tokens/s"
            print(f"{turn + 1}/{ROUNDS} {one['format']} {one['scheme']} {one['engine']}: {said}", flush=True)
    for one, taken in zip(held, decodes, strict=True):
        one["measured"]["speed"] |= {"decode": harness.median(taken), "decodes": taken, "runs": len(taken)}
    temporary = folder / "records.partial"
    temporary.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    temporary.replace(folder / "records.jsonl")


@dataclass(frozen=True)
class Condition:
    """What a user may ask for."""

    objective: str
    size: float | None = None
    """Share of the source in 16 bits."""
    memory: float | None = None
    """Bytes."""
    speed: float | None = None
    """Tokens a second."""
    quality: float = 0.95
    few: bool = False
    """Only the schemes that `slmops optimize` lists by itself."""

    def limits(self, parameters: int) -> Limits:
        size = round(self.size * 2 * parameters) if self.size else None
        return Limits(size, round(self.memory) if self.memory else None, self.speed, CONTEXT)

    def __str__(self) -> str:
        parts = [f"size {self.size:.0%}"] if self.size else []
        parts += [f"memory {self.memory / 1e6:.0f} MB"] if self.memory else []
        parts += [f"speed {self.speed:.0f}"] if self.speed else []
        return ", ".join([*parts, f"quality {self.quality:g}"])


TWO = ("size,speed", "size,quality", "size,memory", "speed,quality", "memory,quality", "speed,memory")
CONDITIONS = [
    *(Condition(names, few=few) for few in (False, True) for names in (*TWO, *search.OBJECTIVES)),
    *(Condition(names, quality=0.99) for names in (*TWO, "speed", "size")),
    *(Condition(names, size=0.6) for names in ("speed,quality", "speed", "quality")),
    *(Condition(names, memory=150e6) for names in ("size,speed", "speed,quality", "quality")),
    *(Condition(names, speed=1000) for names in ("size,quality", "size")),
]


@dataclass(frozen=True)
class Replayed:
    """What came of one condition."""

    curve: list[tuple[float, float]]
    """(share of the exhaustive time, share of the exhaustive hypervolume) after each measurement."""
    measured: int
    candidates: int
    same: bool
    """Whether the choice is the one that measuring everything leads to."""


def replay(where: str, folder: Path) -> None:
    """Print the tables."""
    model, head = source.load(where), json.loads((folder / "machine.json").read_text())
    accelerators = tuple(hardware.Accelerator(**one) for one in head["machine"].pop("accelerators"))
    machine = Machine(**{**head["machine"], "features": tuple(head["machine"]["features"]), "accelerators": accelerators})
    records = {(one["format"], one["scheme"], one["engine"]): one for one in _lines(folder / "records.jsonl")}
    traits = {name: forecast.traits(model, name) for name in schemes(model)}
    rows, done = [], []
    for asked in CONDITIONS:
        found = _replay(model, machine, records, traits, asked)
        done.append(found)
        at = [volume for share, volume in found.curve if share <= GOAL_TIME]
        reached = next((share for share, volume in found.curve if volume >= GOAL), math.nan)
        (time_, volume) = found.curve[-1]
        when = f"{reached:.1%}" if math.isfinite(reached) else "never"
        rows.append(
            [
                f"{asked.objective} ({'own list' if asked.few else 'all'}; {asked})",
                f"{found.measured}/{found.candidates}", f"{time_:.1%}", f"{volume:.3f}",
                f"{at[-1]:.3f}" if at else "-", when, "yes" if found.same else "no",
            ]
        )  # fmt: skip
    header = ["objective (candidates; limits)", "measured", "time", "hypervolume", f"at {GOAL_TIME:.0%} of the time",
              f"time to {GOAL}", "the same choice"]  # fmt: skip
    print(harness.table(header, rows))
    both = sum(one.curve[-1][0] <= GOAL_TIME and one.curve[-1][1] >= GOAL for one in done)
    inside = sum(any(share <= GOAL_TIME and volume >= GOAL for share, volume in one.curve) for one in done)
    print(f"\n{inside} of {len(done)} conditions reach {GOAL} within {GOAL_TIME:.0%} of the time, {both} also end there")
    print("\nThe curves (share of the time: share of the hypervolume)\n")
    for asked, one in zip(CONDITIONS, done, strict=True):
        if not any(share <= GOAL_TIME and volume >= GOAL for share, volume in one.curve):
            print(
                f"- {asked.objective} ({asked}): " + ", ".join(f"{share:.0%}: {volume:.3f}" for share, volume in one.curve)
            )
    print("\nKL divergence against the error of the codes on a sample of rows\n")
    print(harness.table(["scheme", "error", "KL", "KL / error"], list(_errors(records, traits))))


def _replay(
    model: Model, machine: Machine, records: Records, traits: dict[str, forecast.Traits], asked: Condition
) -> Replayed:
    names, limits = search.objectives(asked.objective), asked.limits(model.parameters)
    every = decide.candidates(model, machine, limits, schemes=None if asked.few else tuple(traits))
    able = [one for one in every if not one.dropped and _name(one) in records]
    first = optimize.baseline(every, machine)
    assert first is not None
    able = [first, *(one for one in able if _name(one) != _name(first))]
    truth = {_name(one): _seen(model, one, records[_name(one)], limits, asked.quality) for one in able}
    passed = np.array([[one.cost(name) for name in names] for one in truth.values() if one.passed])
    worst = passed.max(axis=0)
    reference = worst + search.MARGIN * np.maximum(worst - passed.min(axis=0), 0.1)
    whole, spent, total = search.hypervolume(passed, reference), 0.0, _seconds(records, [_name(one) for one in able])
    hunt = search.Search(able, traits, names, limits, asked.quality, POSITIONS, forecast.beside(model))
    seen: list[search.Seen] = []
    curve = []
    batch = [first]
    while batch:
        seen += [truth[_name(one)] for one in batch]
        spent = _seconds(records, [_name(one.candidate) for one in seen])
        points = np.array([[one.cost(name) for name in names] for one in seen if one.passed]).reshape(-1, len(names))
        curve.append((spent / total, search.hypervolume(points, reference) / whole))
        batch = hunt.next(seen)
    best = search.choose(list(truth.values()), names)
    return Replayed(curve, len(seen), len(able), best == search.choose(seen, names))


def _seen(model: Model, one: Candidate, record: dict[str, Any], limits: Limits, quality: float) -> search.Seen:
    """A record as the search sees a trial; the gates are those of quality and of the limits."""
    held = record.get("measured")
    if held is None:
        return search.Seen(one, False, seconds=record["seconds"])
    engine, number = plugins.load("engines", one.engine).FOOTPRINT, memory.number(one.engine)
    filled = held["reserved"] if engine.reserved else held["filled"]
    taken = held["peak"] + memory.kv_cache(model.spec, max(0, min(limits.context, model.spec.context) - filled), number)
    decode, low = held["speed"]["decode"], held["quality"]["retained"]["low"]
    fits = (limits.size is None or held["bytes"] <= limits.size) and (limits.memory is None or taken <= limits.memory)
    fits = fits and (limits.speed is None or statistics.mean(held["speed"]["decodes"]).low >= limits.speed)
    return search.Seen(
        one,
        fits and low >= quality,
        low >= quality,
        size=held["bytes"],
        memory=taken,
        speed=1 / decode,
        quality=held["quality"]["kl"]["value"],
        lost=1 - low,
        seconds=record["seconds"] + (record["made"] or 0.0),
    )


def _seconds(records: Records, names: list[tuple[str, str, str]]) -> float:
    """Of measuring these, and of making each artifact once."""
    made = {(one["format"], one["scheme"]): one["made"] for one in records.values() if one.get("made")}
    artifacts = {(form, scheme) for form, scheme, _ in names}
    return sum(records[name]["seconds"] for name in names) + sum(made.get(one, 0.0) for one in artifacts)


def _errors(records: Records, traits: dict[str, forecast.Traits]) -> Iterator[list[str]]:
    for scheme, one in sorted(traits.items(), key=lambda item: -item[1].error):
        found = [
            r["measured"]["quality"]["kl"]["value"] for r in records.values() if r["scheme"] == scheme and "measured" in r
        ]
        if found and one.error > forecast.EXACT:
            values = f"{min(found):.2e}" if len(found) == 1 else f"{min(found):.2e} to {max(found):.2e}"
            yield [scheme, f"{one.error:.2e}", values, f"{found[0] / one.error:.2f}"]


def _name(one: Candidate) -> tuple[str, str, str]:
    return (one.format, one.scheme, one.engine)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("measure", "retime", "replay"):
        one = verbs.add_parser(verb)
        if verb != "retime":
            one.add_argument("source")
        one.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "retime":
        retime(arguments.folder)
    else:
        (measure if arguments.verb == "measure" else replay)(arguments.source, arguments.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
