"""Run a pipeline: what was made before is recalled, the rest is made in order, and the receipt says what came of it.

A step runs once all that it refers to is there. Below one that judges (a gate, checks) nothing begins before it; one that
acts (a tag, an export) waits for all that stands above it. What is left may run at once on the nodes of an executor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slmops
from slmops import compile as compiler
from slmops.core import plugins, receipt
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, UsageError
from slmops.core.step import Step as Memo
from slmops.measure import report
from slmops.pipeline import document
from slmops.pipeline.desk import Desk
from slmops.pipeline.document import Pipeline, Step
from slmops.pipeline.records import Records
from slmops.pipeline.steps import ROOM, checked
from slmops.plan import hardware
from slmops.plan.hardware import Machine

MADE, RECALLED, FAILED, LEFT = "made", "recalled", "failed", "not run"
"""States of a step after a run."""


@dataclass(frozen=True)
class Job:
    """A step with everything it refers to: plain data, for it may cross to other machines."""

    name: str
    kind: str
    keys: Mapping[str, Any]
    memo: Memo | None
    """None for a step that is not remembered."""
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    state: str
    record: Mapping[str, Any]
    """As in Records, and in the receipt."""
    fault: SlmopsError | None = None


def remembered(kind: str, keys: Mapping[str, Any], desk: Desk) -> Memo:
    """A step as what is remembered: what it reads, by digests, and all that its result hangs on."""
    module = plugins.load(ROOM, kind)
    inputs = {name: desk.mark(leads, keys[name]) for name, leads in module.INPUTS.items() if name in keys}
    parameters: dict[str, Any] = {name: value for name, value in keys.items() if name not in module.INPUTS}
    if hasattr(module, "hangs"):
        parameters["hangs on"] = module.hangs(keys, desk)
    return Memo(kind, inputs, parameters, module.CODE)


def recall(job: Job, desk: Desk) -> Outcome | None:
    """What the step made before, if all of it is still there; its artifacts are held until the desk closes."""
    if job.memo is None or job.force or (found := Records(desk.root).recall(job.memo.key)) is None:
        return None
    try:
        hold(job, found["outputs"], desk)
    except (SourceNotFound, CorruptInput):
        return None  # removed, or damaged: it is made again
    return Outcome(RECALLED, found)


def hold(job: Job, outputs: Mapping[str, Any], desk: Desk) -> None:
    """Lease the artifacts among the outputs. Raises SourceNotFound, CorruptInput."""
    for name, kind in plugins.load(ROOM, job.kind).outputs(dict(job.keys)).items():
        for value in (outputs.get(name) or {}).values() if isinstance(kind, Mapping) else [outputs.get(name)]:
            if "artifact" in (kind.values() if isinstance(kind, Mapping) else [kind]):
                desk.hold(str(value))


def do(job: Job, desk: Desk) -> Outcome:
    """Run a step, unless another process has done so meanwhile. Raises what ends the pipeline."""
    module, records = plugins.load(ROOM, job.kind), Records(desk.root)
    # Anew, for this may be another machine than the one that asks, and figures hang on that.
    memo = remembered(job.kind, job.keys, desk) if job.memo is not None else None
    job = dataclasses.replace(job, memo=memo)
    with records.turn(memo.key) if memo is not None else contextlib.nullcontext():
        if (known := recall(job, desk)) is not None:
            return known
        desk.key = memo.key if memo is not None else ""
        began, clock = time.time(), time.perf_counter()
        checked(module, dict(job.keys))
        made = module.run(dict(job.keys), desk)
        done = memo or remembered(job.kind, job.keys, desk)
        record = {
            "key": done.key,
            **done.facts(),
            "outputs": made.outputs,
            "said": made.said,
            "verdicts": [dataclasses.asdict(one) for one in made.verdicts],
            "began": round(began, 3),
            "seconds": round(time.perf_counter() - clock, 3),
            "machine": receipt.machine(),
        }
        if made.fault is None and made.keep and memo is not None:
            records.keep(record)
    return Outcome(MADE if made.fault is None else FAILED, record, made.fault)


@dataclass(frozen=True)
class Bench:
    """Where jobs are done. See executors.Lab."""

    root: Path
    base: Path
    watch: compiler.Watch
    machine: Machine

    def outcome(self, one: Job) -> Outcome:
        with Desk(self.root, self.base, self.watch) as desk:  # a node calls from threads of its own
            try:
                return do(one, desk)
            except SlmopsError as error:  # whose it is, only this place knows
                return Outcome(FAILED, {}, error)


@contextlib.contextmanager
def _elsewhere(root: Path, base: Path, check: Callable[[], None]) -> Iterator[Bench]:
    """A bench on another node, from data. Raises UsageError where it does not see what it needs."""
    import platform

    if not (root / "index.json").is_file() or not base.is_dir():
        cure = "the registry (SLMOPS_HOME) and the pipeline's folder must be on storage that all nodes share, under one path"
        raise UsageError(f"the node {platform.node()} does not see {root} and {base}", cure)
    watch = compiler.Watch(say=lambda _: check(), advance=lambda _: check())
    yield Bench(root, base, watch, hardware.detect(root))


class Run:
    """One run of a pipeline. `go` runs it; `receipt` is the whole in one document, at any time."""

    def __init__(
        self,
        pipeline: Pipeline,
        desk: Desk,
        *,
        until: str | None = None,
        force: bool = False,
    ) -> None:
        """until: the last step to run; force: recall nothing. Raises UsageError."""
        if pipeline.unset:
            names = " ".join(f"--set {name}=..." for name in pipeline.unset)
            raise UsageError(f"{pipeline.path} needs a value for {', '.join(pipeline.unset)}", names)
        self._pipeline, self._desk, self._force = pipeline, desk, force
        self._steps = _until(pipeline, until)
        self._outcomes: dict[str, Outcome] = {}
        self._fault: tuple[Step, str] | None = None
        self._runner = plugins.load("executors", desk.executor)
        self._began, self._clock, self._state = time.time(), time.perf_counter(), "interrupted"

    def go(self) -> SlmopsError | None:
        """Run what is left; the fault that ended it, with its step, or None. Raises what is not slmops' own."""
        pending, at = list(self._steps), self._steps[0]
        Records(self._desk.root).sweep()
        try:
            while pending:
                for at, outcome in self._some(self._ready(pending)):
                    self._outcomes[at.name] = outcome
                    pending.remove(at)
                    if outcome.fault is not None:
                        raise outcome.fault
        except SlmopsError as error:
            at = getattr(error, "step", at)
            self._fault, self._state = (at, str(error)), "failed"
            return type(error)(f"{self._pipeline.path}, line {at.line}, step {at.name!r}: {error}", error.cure)
        self._state = "passed"
        self._attach()
        return None

    def _ready(self, pending: Sequence[Step]) -> list[Step]:
        """What can begin now. Never empty: the first in the file always can."""
        ready = []
        for step in pending:
            if all(name in self._outcomes for name in step.needs) and not (step.module.ACTS and step is not pending[0]):
                ready.append(step)
            if step.module.JUDGES:
                break
        return ready

    def _some(self, ready: Sequence[Step]) -> Iterator[tuple[Step, Outcome]]:
        """Each of some of these steps with what came of it: all that is recalled, else a batch of those to be made."""
        jobs: list[tuple[Step, Job]] = []
        recalled = False
        for step in ready:
            with _blamed(step):
                job = self._job(step)
                known = recall(job, self._desk)
            if known is not None:
                recalled = True
                self._desk.watch.say(f"{step.name}: made before")
                yield step, known
            else:
                jobs.append((step, job))
        if recalled or not jobs:
            return
        away = [(step, job) for step, job in jobs if job.memo and not getattr(step.module, "SPREADS", False)]
        if away and self._runner.ELSEWHERE:
            yield from self._away(away)
            return
        step, job = jobs[0]
        number = len(self._outcomes) + 1
        self._desk.watch.say(f"{number} of {len(self._steps)}: {step.name} ({step.kind})")
        with _blamed(step):
            outcome = do(job, self._desk)
            if outcome.fault is None:
                hold(job, outcome.record["outputs"], self._desk)
        yield step, outcome

    def _away(self, jobs: Sequence[tuple[Step, Job]]) -> Iterator[tuple[Step, Outcome]]:
        """As many as there are nodes, at once."""
        start: Any = functools.partial(_elsewhere, self._desk.root, self._desk.base)
        steps = {job.name: step for step, job in jobs}
        with _blamed(jobs[0][0]), self._runner.open(start, self._desk.watch.say) as nodes:
            batch = [job for _, job in jobs[: nodes.slots]]
            self._desk.watch.say(f"at once: {', '.join(job.name for job in batch)}")
            for job, outcome in nodes.run(batch):
                if outcome.fault is None:
                    hold(job, outcome.record["outputs"], self._desk)
                yield steps[job.name], outcome

    def _job(self, step: Step) -> Job:
        keys = document.resolved(step.keys, self._output)
        memo = remembered(step.kind, keys, self._desk) if step.module.REMEMBERED else None
        return Job(step.name, step.kind, keys, memo, self._force)

    def _output(self, name: str, path: Sequence[str]) -> Any:
        found: Any = self._outcomes[name].record["outputs"]
        for part in path:
            found = found[part]
        return found

    def _attach(self) -> None:
        """The receipt goes with what was given a name, unless nothing was made that was not known."""
        if any(self._outcomes[step.name].state == MADE and step.module.REMEMBERED for step in self._steps):
            made = [self._outcomes[step.name].record["outputs"] for step in self._steps if step.module.ACTS]
            for digest in dict.fromkeys(one["artifact"] for one in made if "artifact" in one):
                self._desk.registry.attach(digest, "pipeline", self.receipt())

    def receipt(self) -> dict[str, Any]:
        """Everything that came of the run, as JSON holds it."""
        found: dict[str, Any] = report.plain({
            "pipeline": self._pipeline.name,
            "digest": self._pipeline.digest,
            "parameters": self._pipeline.parameters,
            "state": self._state,
            "fault": {"step": self._fault[0].name, "said": self._fault[1]} if self._fault else None,
            "steps": [self._entry(step) for step in self._pipeline.steps],
            "began": round(self._began, 3),
            "seconds": round(time.perf_counter() - self._clock, 3),
            "executor": self._desk.executor,
            "machine": receipt.machine(),
            "versions": {**compiler.versions(), "slmops": slmops.__version__},
        })  # fmt: skip
        return found

    def _entry(self, step: Step) -> dict[str, Any]:
        outcome = self._outcomes.get(step.name)
        failed = self._fault is not None and self._fault[0] is step
        state = outcome.state if outcome is not None else FAILED if failed else LEFT
        return {
            "name": step.name,
            "kind": step.kind,
            "line": step.line,
            "state": state,
            **(outcome.record if outcome else {}),
        }


def foresee(pipeline: Pipeline, desk: Desk, *, until: str | None = None, force: bool = False) -> list[dict[str, Any]]:
    """What each step would do: is recalled, runs (and what is predicted of it), or waits for what is not made yet.

    Makes nothing, and fetches nothing but headers. Raises what a step would surely raise.
    """
    known: dict[str, Mapping[str, Any]] = {}
    found = []

    def output(name: str, path: Sequence[str]) -> Any:
        here: Any = known[name]
        for part in path:
            here = here[part]
        return here

    for step in _until(pipeline, until):
        entry = {"name": step.name, "kind": step.kind, "line": step.line}
        if step.unset:
            found.append({**entry, "state": "waits", "said": f"for --set {', '.join(step.unset)}"})
        elif waits := [name for name in step.needs if name not in known]:
            found.append({**entry, "state": "waits", "said": f"for {', '.join(waits)}"})
        else:
            with _located(pipeline, step):
                keys = document.resolved(step.keys, output)
                before = None
                models = [keys[name] for name, leads in step.module.INPUTS.items() if leads == "model" and name in keys]
                if step.module.REMEMBERED and all(map(desk.fetched, models)):
                    memo = remembered(step.kind, keys, desk)
                    entry["key"] = memo.key
                    before = recall(Job(step.name, step.kind, keys, memo, force), desk)
                if before is not None:
                    known[step.name] = before.record["outputs"]
                    found.append({**entry, "state": "recalled", "said": before.record["said"]})
                    continue
                foreseen = step.module.plan(keys, desk)
            if foreseen.outputs is not None:
                known[step.name] = foreseen.outputs
            found.append({**entry, "state": "runs", "said": foreseen.said})
    return found


def _until(pipeline: Pipeline, until: str | None) -> tuple[Step, ...]:
    if until is None:
        return pipeline.steps
    names = [step.name for step in pipeline.steps]
    if until not in names:
        raise UsageError(f"there is no step {until!r}", f"steps: {', '.join(names)}")
    return pipeline.steps[: names.index(until) + 1]


@contextlib.contextmanager
def _blamed(step: Step) -> Iterator[None]:
    """Note on an error which step it is of."""
    try:
        yield
    except SlmopsError as error:
        error.step = step  # type: ignore[attr-defined]
        raise


@contextlib.contextmanager
def _located(pipeline: Pipeline, step: Step) -> Iterator[None]:
    """Say in an error where its step stands."""
    try:
        yield
    except SlmopsError as error:
        raise type(error)(f"{pipeline.path}, line {step.line}, step {step.name!r}: {error}", error.cure) from error
