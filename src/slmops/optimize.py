"""The main job: predict, make the most telling candidates, measure them, and choose the best that passes its gates.

The search is bounded, not a grid: search.py decides what comes next and when the front can no longer change, by the
predictions of forecast.py; here candidates are made, proven, measured and judged. What was measured before is remembered,
and tells of the rest before anything new is begun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import compile as compiler
from slmops import forecast, prove, search, source
from slmops.core import plugins, receipt
from slmops.core.errors import EngineCrashed, EngineFailed, OutputExists, Unsupported, UsageError, VerificationFailed
from slmops.core.model import Model
from slmops.core.store import no_space
from slmops.engines import _host
from slmops.executors import Start
from slmops.measure import artifact, gates
from slmops.measure.artifact import Measured, Text
from slmops.measure.gates import Verdict
from slmops.measure.ledger import Ledger
from slmops.measure.tasks import Case
from slmops.passes import solve
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.plan import decide, hardware, memory
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine
from slmops.search import Seen

RUNS = 5
"""Of each speed measurement: three have intervals too wide to decide anything."""
MEASUREMENTS = ".measurements"
SHOWN = ("quality", "size", "speed")
"""What the front is of where one objective is asked for."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    limits: Limits
    quality: float = gates.QUALITY
    objective: str = "speed"
    """One of search.OBJECTIVES, or two of them: size,speed."""
    budget: float = 600.0
    """Seconds after which nothing new is begun."""
    formats: tuple[str, ...] | None = None
    schemes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Trial:
    """A candidate that was made, measured and judged."""

    candidate: Candidate
    measured: Measured | None
    verdicts: tuple[Verdict, ...]
    failure: str = ""
    """Why there is nothing measured: the proof failed, or the engine."""
    machine: str = ""
    """The kind of machine that it was measured on."""
    taken: int = 0
    """Bytes of memory at the peak, at the context that was asked for."""
    seconds: float | None = None
    """What it took; None where it was remembered."""

    @property
    def passed(self) -> bool:
        return self.measured is not None and not any(one.stops for one in self.verdicts)


@dataclass(frozen=True)
class Found:
    """The end of a search."""

    trials: tuple[Trial, ...]
    """In the order in which they were measured; the unquantized baseline first."""
    choice: Trial | None
    front: tuple[Trial, ...]
    """Those that passed and no other beats in both objectives; of one objective, those that no other beats in quality, size
    and speed at once, whether they passed or not."""
    unmeasured: tuple[Candidate, ...]
    """Not dropped by prediction, and not needed, or not reached within the budget."""
    dropped: tuple[Candidate, ...]
    relax: tuple[str, ...]
    """Without a choice: what would have to give way."""
    machine: Machine
    seconds: float
    stopped: str
    """Why the search ended."""
    steps: tuple[str, ...] = ()
    """What was tried in turn for quality: 4 bits, mixed, 8 bits, 16 bits, up to the first that kept it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a candidate on the machine where it was tried."""

    measured: Measured | None
    failure: str
    machine: dict[str, Any]
    seconds: float | None
    """None where it was remembered."""


def optimize(
    model: Model,
    out: Path,
    wanted: Wanted,
    text: str,
    machine: Machine,
    cases: Sequence[Case] = (),
    calibration: str | None = None,
    watch: compiler.Watch | None = None,
    executor: str = "local",
) -> Found:
    """Search. Artifacts go to `out`/SCHEME/FORMAT and measurements beside them, so that another run goes on from there.

    calibration: a text by which codes are solved for, wherever the scheme allows. executor: a name in executors/; where it
    is not the local one, `machine` is that of its first node.
    Raises UsageError where nothing can be made here at all.
    """
    watch = watch or compiler.Watch()
    began = time.perf_counter()
    names = search.objectives(wanted.objective)
    runner, given = plugins.load("executors", executor), (wanted, text, tuple(cases), calibration)
    start: Start = lambda check: laboratory(model, out, *given, machine, watch)  # noqa: E731 - a signal ends what runs here
    if runner.ELSEWHERE:
        (out / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
        where = str(Path(str(model.source["path"])).resolve())
        start = functools.partial(_elsewhere, where, compiler.fingerprint(model), out.resolve(), given)
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(runner.open(start, watch.say))
        machine = nodes.machine
        lab = stack.enter_context(laboratory(model, out, *given, machine, watch))
        listed = decide.candidates(model, machine, wanted.limits, wanted.formats, wanted.schemes)
        if not listed:
            raise UsageError("there is nothing to choose from", "give other --format or --scheme")
        able = [one for one in listed if not one.dropped and prove.impractical(one.engine, model) is None]
        able = [one for one in able if not prove.emulated(one.engine)]
        trials: list[Trial] = []
        if (first := baseline(listed, machine)) is not None:
            trials.append(lab.baseline(next(nodes.run([first]))[1], first))
            able = [first, *(one for one in able if _key(one) != _key(first))]
        trials += [lab.judged(one, known) for one in able if one is not first and (known := lab.recall(one)) is not None]
        watch.say(f"predicting {len(able)} candidates")
        traits = {one.scheme: forecast.traits(model, one.scheme, lab.solves(one.scheme)) for one in able}
        hunt = search.Search(able, traits, names, wanted.limits, wanted.quality, lab.positions, forecast.beside(model))
        stopped, said = "", 0
        while not stopped:
            seen = [_seen(one, trials[0]) for one in trials]
            steps = _steps(seen, wanted)
            for line in steps[said:]:
                watch.say(line)
            said = len(steps)
            batch = hunt.next(seen, nodes.slots)
            if not batch:
                left = len(able) > len(trials)
                stopped = "no other candidate could change the answer" if left else "every candidate was measured"
            elif time.perf_counter() - began > wanted.budget and trials:
                stopped = f"the budget of {wanted.budget:.0f} s is spent"
            else:
                trials += [lab.judged(one, outcome) for one, outcome in nodes.run(batch)]
    seen = [_seen(one, trials[0]) for one in trials]
    chosen = search.choose(seen, names)
    tried = {_key(one.candidate) for one in trials}
    best = search.front([one for one in seen if one.passed], names) if len(names) > 1 else search.front(seen, SHOWN)
    return Found(
        trials=tuple(trials),
        choice=trials[seen.index(chosen)] if chosen else None,
        front=tuple(trials[seen.index(one)] for one in best),
        unmeasured=tuple(one for one in able if _key(one) not in tried),
        dropped=tuple(one for one in listed if one.dropped),
        relax=() if chosen else tuple(_relax(trials, listed, wanted, names)),
        machine=machine,
        seconds=time.perf_counter() - began,
        stopped=stopped,
        steps=tuple(steps),
    )


@contextlib.contextmanager
def laboratory(
    model: Model,
    out: Path,
    wanted: Wanted,
    text: str,
    cases: Sequence[Case],
    calibration: str | None,
    machine: Machine,
    watch: compiler.Watch,
) -> Iterator[_Lab]:
    """A lab with a scratch folder of its own."""
    with tempfile.TemporaryDirectory(prefix="slmops-optimize-") as scratch, no_space(Path(scratch)):
        solver = Calibration(model, calibration, Path(scratch) / "moments") if calibration is not None else None
        yield _Lab(model, out, wanted, Text(model, text, Path(scratch)), cases, solver, machine, watch)


@contextlib.contextmanager
def _elsewhere(path: str, fingerprint: str, out: Path, given: tuple[Any, ...], check: Callable[[], None]) -> Iterator[_Lab]:
    """The same on another node, from data."""
    where, cure = platform.node(), "the source and -o must be on storage that all nodes share, under one path"
    if not (out / MEASUREMENTS).is_dir():
        raise UsageError(f"the node {where} does not see {out}", cure)
    model = source.load(path)
    if compiler.fingerprint(model) != fingerprint:
        raise UsageError(f"the node {where} sees another model at {path}", cure)
    watch = compiler.Watch(say=lambda _: check(), advance=lambda _: check())
    wanted, text, cases, calibration = given
    with laboratory(model, out, wanted, text, cases, calibration, hardware.detect(out), watch) as lab:
        yield lab


class _Lab:
    """Makes, proves, measures and judges candidates, remembering what it has measured."""

    def __init__(
        self,
        model: Model,
        out: Path,
        wanted: Wanted,
        text: Text,
        cases: Sequence[Case],
        calibration: Calibration | None,
        machine: Machine,
        watch: compiler.Watch,
    ) -> None:
        self._model, self._out, self._wanted, self._text = model, out, wanted, text
        self._cases, self._calibration, self.machine, self._watch = cases, calibration, machine, watch
        self._ledger = Ledger(out / MEASUREMENTS)
        self._told = hashlib.sha256(f"{text.digest}{cases!r}".encode()).hexdigest()
        self._baseline: Measured | None = None
        self._kind: dict[str, Any] = {}
        self.positions = sum(len(ids) for ids in text.windows)

    def baseline(self, outcome: Outcome, one: Candidate) -> Trial:
        """The first trial: what the others are compared with, and whose machine they must run on for it."""
        self._baseline, self._kind = outcome.measured, outcome.machine
        return self.judged(one, outcome)

    def outcome(self, one: Candidate) -> Outcome:
        """Make, prove and measure. Raises what concerns more than this candidate: a full disk, an occupied folder."""
        began = time.perf_counter()
        try:
            measured, fresh = self._measure(one)
        except (VerificationFailed, EngineFailed, EngineCrashed, Unsupported) as error:
            return Outcome(None, str(error), receipt.machine(), time.perf_counter() - began)
        return Outcome(measured, "", receipt.machine(), time.perf_counter() - began if fresh else None)

    def recall(self, one: Candidate) -> Outcome | None:
        """What was measured of a candidate before, if its artifact still stands."""
        folder, calibration = self._place(one.scheme, one.format)
        step = compiler.step_of(self._model, one.scheme, "cpu", calibration)
        if not (folder / receipt.NAME).is_file():
            return None
        known = self._ledger.recall(self._facts(one, step.key))
        if known is not None and known.quality is None and (judge := _judge_of(one)) is not None:
            of_judge = self._ledger.recall(self._facts(judge, step.key))
            known = dataclasses.replace(known, quality=of_judge.quality) if of_judge is not None else None
        return Outcome(known, "", receipt.machine(), None) if known is not None else None

    def judged(self, one: Candidate, outcome: Outcome) -> Trial:
        """With the verdicts of all gates."""
        measured, label = outcome.measured, _label(outcome.machine)
        if measured is None:
            return Trial(one, None, (), outcome.failure, label, 0, outcome.seconds)
        verdicts = [*self._judge(one, measured)]
        if self._kind and outcome.machine != self._kind and (self._wanted.limits.speed or "speed" in self._wanted.objective):
            said = f"measured on {label}, the first on {_label(self._kind)}: their speeds do not compare"
            verdicts.append(Verdict("machine", None, True, said))
        return Trial(
            one, measured, tuple(verdicts), "", label, measured.peak + self._unfilled(one, measured), outcome.seconds
        )

    def solves(self, scheme: str) -> bool:
        """Whether codes of a scheme are solved for."""
        able = self._calibration is not None and solve.able(quantize(self._model, chooser(scheme)), self._model)
        return bool(able)

    def _place(self, scheme: str, form: str) -> tuple[Path, Calibration | None]:
        solved = self.solves(scheme)
        return self._out / (f"{scheme}-solved" if solved else scheme) / form, self._calibration if solved else None

    def _facts(self, one: Candidate, key: str) -> dict[str, Any]:
        """All that a measurement hangs on."""
        return {
            "artifact": key,
            "format": one.format,
            "engine": [one.engine, _host.require(one.engine).version],
            "text": self._told,
            "context": self._wanted.limits.context,
            "machine": [receipt.machine(), self.machine.name],
        }

    def _measure(self, one: Candidate) -> tuple[Measured, bool]:
        """The figures, and whether anything had to be done for them. An engine without logits has its codes judged in
        another that opens the format."""
        known, fresh = self._taken(one)
        if known.quality is None and (judge := _judge_of(one)) is not None:
            of_judge, more = self._taken(judge)
            return dataclasses.replace(known, quality=of_judge.quality), fresh or more
        return known, fresh

    def _taken(self, one: Candidate) -> tuple[Measured, bool]:
        folder, calibration = self._place(one.scheme, one.format)
        try:
            (made,) = compiler.convert(
                self._model, [one.format], one.scheme, folder, calibration=calibration, watch=self._watch
            )
        except OutputExists as error:
            raise OutputExists(str(error), "give another -o, or remove it") from error
        if made.failure is not None:
            raise made.failure
        facts = self._facts(one, made.receipt["step"]["key"])
        known = self._ledger.recall(facts)
        if known is not None:
            return known, made.fresh
        known = artifact.measure(
            made.folder,
            one.engine,
            text=self._text,
            cases=self._cases,
            context=self._wanted.limits.context,
            runs=RUNS,
            say=self._watch.say,
        )
        self._ledger.keep(facts, known)
        return known, True

    def _judge(self, one: Candidate, measured: Measured) -> Iterator[Verdict]:
        wanted, limits = self._wanted, self._wanted.limits
        yield from gates.quality(measured, wanted.quality, self._baseline)
        yield gates.steady(measured)
        yield from gates.limits(measured, limits.size, limits.memory, limits.speed, self._unfilled(one, measured))
        if self._baseline is not None:
            yield gates.faster(measured, self._baseline)
            yield gates.leaner(measured, self._baseline, self.machine.cache)

    def _unfilled(self, one: Candidate, measured: Measured) -> int:
        """Bytes of KV cache between what the measurement filled and the context that is asked for."""
        engine, spec = plugins.load("engines", one.engine).FOOTPRINT, self._model.spec
        held = measured.reserved if engine.reserved else measured.filled
        return memory.kv_cache(spec, max(0, min(self._wanted.limits.context, spec.context) - held), engine.kv)


def baseline(listed: Sequence[Candidate], machine: Machine) -> Candidate | None:
    """The unquantized model in the engine that decodes it fastest by prediction; what the others are compared with."""
    dense = [one for one in listed if one.scheme == "f16" and one.memory and _host.installed(one.engine)]
    dense = [one for one in dense if not prove.emulated(one.engine)]
    dense = [one for one in dense if one.memory and one.memory.low < machine.usable]
    return max(dense, key=lambda one: one.speed[1], default=None)


def _seen(one: Trial, first: Trial) -> Seen:
    """What a trial tells the search. Speeds of another kind of machine than the first trial's tell nothing."""
    measured = one.measured
    if measured is None:
        return Seen(one.candidate, False, seconds=one.seconds)
    speed, quality = measured.speed if one.machine == first.machine else None, measured.quality
    return Seen(
        one.candidate,
        one.passed,
        all(verdict.passed is True for verdict in one.verdicts if verdict.gate == "quality"),
        size=measured.bytes,
        memory=one.taken,
        speed=1 / speed.decode if speed else None,
        quality=quality.kl.value if quality else None,
        lost=1 - quality.retained.low if quality else None,
        seconds=one.seconds,
    )


def _steps(seen: Sequence[Seen], wanted: Wanted) -> list[str]:
    """A line for each step that was tried for quality, up to the first that kept it."""
    lines = []
    for name, best in search.ladder(seen):
        kept, what = 1 - (best.lost or 0.0), f"{best.candidate.format} {best.candidate.scheme}"
        verdict = "enough" if best.good else "not enough"
        lines.append(f"{name}: {what} keeps at least {kept:.3f} of the quality, {wanted.quality:g} is asked: {verdict}")
    return lines


def _judge_of(one: Candidate) -> Candidate | None:
    """The same codes in the preferred installed engine that gives logits; None where the candidate's own does."""
    names = [name for name in _host.engines_for(one.format) if "logits" in plugins.load("engines", name).CAN]
    able = [name for name in names if _host.installed(name)]
    return dataclasses.replace(one, engine=able[0]) if able and one.engine not in names else None


def _label(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"


def _key(one: Candidate) -> tuple[str, str, str]:
    return (one.format, one.scheme, one.engine)


def _relax(trials: Sequence[Trial], listed: Sequence[Candidate], wanted: Wanted, names: Sequence[str]) -> Iterator[str]:
    """The trial with the fewest blocking verdicts, and what it lacks; before that, what prediction says."""
    yield from decide.relax(listed, wanted.limits) if all(one.dropped for one in listed) else ()
    measured = [one for one in trials if one.measured]
    if measured:
        near = min(
            measured, key=lambda one: (sum(verdict.stops for verdict in one.verdicts), _seen(one, trials[0]).cost(names[0]))
        )
        lacks = "; ".join(f"{verdict.gate}: {verdict.said}" for verdict in near.verdicts if verdict.stops)
        yield f"the nearest is {near.candidate.format} {near.candidate.scheme}, which lacks {lacks}"
