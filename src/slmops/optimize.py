"""The main job: predict, make the most telling candidates, measure them, and choose the best that passes its gates.

The search is bounded, not a grid. Each candidate has an optimistic figure for the objective: its exact size, the lower end
of its predicted memory, its roofline speed times what the engine has reached so far. The best unmeasured one is made and
measured next, until no optimistic figure beats the best that passed, or the budget is spent. What has failed for quality is
not tried in another format, nor is what has far fewer bits.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops import compile as compiler
from slmops import prove
from slmops.core import plugins, receipt
from slmops.core.errors import EngineCrashed, EngineFailed, OutputExists, Unsupported, UsageError, VerificationFailed
from slmops.core.model import Model
from slmops.engines import _host
from slmops.measure import artifact, gates
from slmops.measure.artifact import Measured, Text
from slmops.measure.gates import Verdict
from slmops.measure.ledger import Ledger
from slmops.measure.tasks import Case
from slmops.passes import solve
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.plan import decide, memory
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine

OBJECTIVES = ("speed", "size", "memory", "quality")
HOPE = 1.25
"""How much faster than predicted by its engine's figures so far a candidate may turn out to be."""


FEWER = 0.8
"""Share of a failed candidate's bits below which no other scheme makes up for them."""
RUNS = 5
"""Of each speed measurement: three have intervals too wide to decide anything."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    limits: Limits
    quality: float = gates.QUALITY
    objective: str = "speed"
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
    """Those that no other beats in quality, size and speed at once."""
    unmeasured: tuple[Candidate, ...]
    """Not dropped by prediction, and not needed, or not reached within the budget."""
    dropped: tuple[Candidate, ...]
    relax: tuple[str, ...]
    """Without a choice: what would have to give way."""
    machine: Machine
    seconds: float
    stopped: str
    """Why the search ended."""


def optimize(
    model: Model,
    out: Path,
    wanted: Wanted,
    text: str,
    machine: Machine,
    cases: Sequence[Case] = (),
    calibration: str | None = None,
    watch: compiler.Watch | None = None,
) -> Found:
    """Search. Artifacts go to `out`/SCHEME/FORMAT and measurements beside them, so that another run goes on from there.

    calibration: a text by which codes are solved for, wherever the scheme allows.
    Raises UsageError where nothing can be made here at all.
    """
    watch = watch or compiler.Watch()
    began = time.perf_counter()
    listed = decide.candidates(model, machine, wanted.limits, wanted.formats, wanted.schemes)
    able = [one for one in listed if not one.dropped and prove.impractical(one.engine, model) is None]
    able = [one for one in able if not prove.emulated(one.engine)]
    dropped = tuple(one for one in listed if one.dropped)
    if not listed:
        raise UsageError("there is nothing to choose from", "give other --format or --scheme")
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="slmops-optimize-") as scratch:
        known = Text(model, text, Path(scratch))
        solver = Calibration(model, calibration, Path(scratch) / "moments") if calibration is not None else None
        lab = _Lab(model, out, wanted, known, cases, solver, machine, watch)
        baseline = lab.baseline(listed)
        if baseline is not None:
            trials.append(baseline)
        stopped = "every candidate was measured"
        left = [one for one in able if not _same(one, baseline)]
        while left:
            best = choose(trials, wanted.objective)
            hopeful = [one for one in left if not _hopeless(one, trials) and _may_beat(one, best, trials, wanted.objective)]
            if not hopeful:
                stopped = "no other candidate could change the answer"
                break
            rest = wanted.budget - (time.perf_counter() - began)
            if rest < 0 and trials:
                stopped = f"the budget of {wanted.budget:.0f} s is spent"
                break
            one = min(hopeful, key=lambda each: _promise(each, trials, wanted.objective))
            left.remove(one)
            watch.say(
                f"{one.format} {one.scheme}: {len(trials)} measured, {len(hopeful)} could change the answer, "
                f"{max(0.0, rest):.0f} s of the budget left"
            )
            trials.append(lab.trial(one))
    choice = choose(trials, wanted.objective)
    return Found(
        trials=tuple(trials),
        choice=choice,
        front=tuple(front(trials)),
        unmeasured=tuple(left),
        dropped=dropped,
        relax=() if choice else tuple(_relax(trials, listed, wanted)),
        machine=machine,
        seconds=time.perf_counter() - began,
        stopped=stopped,
    )


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
        self._cases, self._calibration, self._machine, self._watch = cases, calibration, machine, watch
        self._ledger = Ledger(out / ".measurements")
        self._told = hashlib.sha256(f"{text.digest}{cases!r}".encode()).hexdigest()
        self._baseline: Measured | None = None

    def baseline(self, listed: Sequence[Candidate]) -> Trial | None:
        """The unquantized model in the engine that decodes it fastest by prediction; what the others are compared with."""
        dense = [one for one in listed if one.scheme == "f16" and one.memory and _host.installed(one.engine)]
        dense = [one for one in dense if not prove.emulated(one.engine)]
        dense = [one for one in dense if one.memory and one.memory.low < self._machine.usable]
        if not dense:
            return None
        found = self.trial(max(dense, key=lambda one: one.speed[1]))
        self._baseline = found.measured
        return found

    def trial(self, one: Candidate) -> Trial:
        """Raises what concerns more than this candidate: a full disk, a folder that holds something else."""
        try:
            measured = self._measure(one)
        except (VerificationFailed, EngineFailed, EngineCrashed, Unsupported) as error:
            return Trial(one, None, (), str(error))
        return Trial(one, measured, tuple(self._judge(one, measured)))

    def _measure(self, one: Candidate) -> Measured:
        able = self._calibration is not None and solve.able(quantize(self._model, chooser(one.scheme)), self._model)
        folder = self._out / (f"{one.scheme}-solved" if able else one.scheme) / one.format
        calibration = self._calibration if able else None
        try:
            (made,) = compiler.convert(
                self._model, [one.format], one.scheme, folder, calibration=calibration, watch=self._watch
            )
        except OutputExists as error:
            raise OutputExists(str(error), "give another -o, or remove it") from error
        if made.failure is not None:
            raise made.failure
        context = self._wanted.limits.context
        facts = {
            "artifact": made.receipt["step"]["key"],
            "format": one.format,
            "engine": [one.engine, _host.require(one.engine).version],
            "text": self._told,
            "context": context,
            "machine": [receipt.machine(), self._machine.name],
        }
        known = self._ledger.recall(facts)
        if known is None:
            known = artifact.measure(
                made.folder, one.engine, text=self._text, cases=self._cases, context=context, runs=RUNS, say=self._watch.say
            )
            self._ledger.keep(facts, known)
        return known

    def _judge(self, one: Candidate, measured: Measured) -> Iterator[Verdict]:
        wanted, limits = self._wanted, self._wanted.limits
        yield from gates.quality(measured, wanted.quality, self._baseline)
        yield gates.steady(measured)
        yield from gates.limits(measured, limits.size, limits.memory, limits.speed, self._unfilled(one, measured))
        if self._baseline is not None:
            yield gates.faster(measured, self._baseline)
            yield gates.leaner(measured, self._baseline, self._machine.cache)

    def _unfilled(self, one: Candidate, measured: Measured) -> int:
        """Bytes of KV cache between what the measurement filled and the context that is asked for."""
        engine, spec = plugins.load("engines", one.engine).FOOTPRINT, self._model.spec
        held = measured.reserved if engine.reserved else measured.filled
        return memory.kv_cache(spec, max(0, min(self._wanted.limits.context, spec.context) - held), engine.kv)


def choose(trials: Sequence[Trial], objective: str) -> Trial | None:
    """The best of those that passed; None where none did."""
    passed = [one for one in trials if one.passed]
    return min(passed, key=lambda one: _cost(one, objective)) if passed else None


def front(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Trials that no other one beats or equals in divergence, bytes and speed, being better in one of them."""
    places = [(one, _place(one)) for one in trials if one.measured and one.measured.quality and one.measured.speed]
    for one, own in places:
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for _, other in places):
            yield one


def _place(one: Trial) -> tuple[float, float, float]:
    measured = one.measured
    assert measured is not None and measured.quality is not None and measured.speed is not None
    return (measured.quality.kl.value, float(measured.bytes), -measured.speed.decode)


def _cost(one: Trial, objective: str) -> float:
    """What is to be small."""
    measured = one.measured
    assert measured is not None
    if objective == "speed":
        return -measured.speed.decode if measured.speed else math.inf
    if objective == "quality":
        return measured.quality.kl.value if measured.quality else math.inf
    return float(measured.bytes if objective == "size" else measured.peak)


def _promise(one: Candidate, trials: Sequence[Trial], objective: str) -> float:
    """The optimistic cost of a candidate that was not measured."""
    if objective == "speed":
        return -one.speed[1] * _reached(one.engine, trials) * HOPE
    if objective == "quality":
        return -one.bits
    return float(one.size if objective == "size" or one.memory is None else one.memory.low)


def _reached(engine: str, trials: Sequence[Trial]) -> float:
    """Measured over predicted speed of an engine so far; of all engines where it has not run yet."""
    ratios = [
        (one.candidate.engine, one.measured.speed.decode / one.candidate.speed[1])
        for one in trials
        if one.measured and one.measured.speed and one.candidate.speed[1]
    ]
    own = [ratio for name, ratio in ratios if name == engine]
    return max(own or [ratio for _, ratio in ratios], default=1.0)


def _may_beat(one: Candidate, best: Trial | None, trials: Sequence[Trial], objective: str) -> bool:
    if best is None:
        return True
    if objective == "quality":
        return one.bits > best.candidate.bits
    return _promise(one, trials, objective) < _cost(best, objective)


def _hopeless(one: Candidate, trials: Sequence[Trial]) -> bool:
    """Whether its very codes have failed for quality with the whole interval elsewhere, or codes of many more bits."""
    failed = [
        trial.candidate
        for trial in trials
        if any(verdict.gate == "quality" and verdict.passed is False for verdict in trial.verdicts)
    ]
    return any(one.scheme == other.scheme or one.bits < FEWER * other.bits for other in failed)


def _same(one: Candidate, trial: Trial | None) -> bool:
    return trial is not None and (one.format, one.scheme, one.engine) == (
        trial.candidate.format,
        trial.candidate.scheme,
        trial.candidate.engine,
    )


def _relax(trials: Sequence[Trial], listed: Sequence[Candidate], wanted: Wanted) -> Iterator[str]:
    """The trial with the fewest blocking verdicts, and what it lacks; before that, what prediction says."""
    yield from decide.relax(listed, wanted.limits) if all(one.dropped for one in listed) else ()
    measured = [one for one in trials if one.measured]
    if measured:
        near = min(measured, key=lambda one: (sum(verdict.stops for verdict in one.verdicts), _cost(one, wanted.objective)))
        lacks = "; ".join(f"{verdict.gate}: {verdict.said}" for verdict in near.verdicts if verdict.stops)
        yield f"the nearest is {near.candidate.format} {near.candidate.scheme}, which lacks {lacks}"
