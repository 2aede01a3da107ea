"""Candidates made, proven, measured and judged, one at a time; what was measured before is remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import compile as compiler
from slmops import source
from slmops.core import plugins, receipt, store
from slmops.core.errors import EngineCrashed, EngineFailed, OutputExists, Unsupported, UsageError, VerificationFailed
from slmops.core.model import Model
from slmops.engines import _installed
from slmops.measure import artifact, gates
from slmops.measure.artifact import Measured, Text
from slmops.measure.gates import Verdict
from slmops.measure.ledger import Ledger
from slmops.measure.tasks import Case
from slmops.passes import activations, mix, solve
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.plan import hardware, memory
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine

RUNS = 5
"""Of each speed measurement: three have intervals too wide to decide anything."""
MEASUREMENTS = ".measurements"


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
    gates: tuple[gates.Gate, ...] = ()
    """The user's own."""
    required: tuple[str, ...] = ()
    """Of gates.ADVISING, those that block."""


@dataclass(frozen=True)
class Given:
    """What a search is given besides the model and the machine: plain data, for it may cross to other machines."""

    wanted: Wanted
    text: str
    """That quality is measured on."""
    cases: tuple[Case, ...] = ()
    calibration: str | None = None
    """A text by which codes are solved for, wherever the scheme allows."""
    tune: int = 0
    """Passes over it that move scales and norms afterwards."""


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
class Outcome:
    """What came of a candidate on the machine where it was tried."""

    measured: Measured | None
    failure: str
    machine: dict[str, Any]
    seconds: float | None
    """None where it was remembered."""


@contextlib.contextmanager
def laboratory(model: Model, out: Path, given: Given, machine: Machine, watch: compiler.Watch) -> Iterator[Lab]:
    """A lab with a scratch folder of its own."""
    with store.scratch("optimize") as scratch, store.no_space(scratch):
        content, moments = given.calibration, scratch / "moments"
        solver = Calibration(model, content, moments, tune=given.tune) if content is not None else None
        yield Lab(model, out, given, Text(model, given.text, scratch), solver, machine, watch)


@contextlib.contextmanager
def elsewhere(path: str, fingerprint: str, out: Path, given: Given, check: Callable[[], None]) -> Iterator[Lab]:
    """The same on another node, from data."""
    where, cure = platform.node(), "the source and -o must be on storage that all nodes share, under one path"
    if not (out / MEASUREMENTS).is_dir():
        raise UsageError(f"the node {where} does not see {out}", cure)
    model = source.load(path)
    if compiler.fingerprint(model) != fingerprint:
        raise UsageError(f"the node {where} sees another model at {path}", cure)
    watch = compiler.Watch(say=lambda _: check(), advance=lambda _: check())
    with laboratory(model, out, given, hardware.detect(out), watch) as lab:
        yield lab


class Lab:
    """Makes, proves, measures and judges candidates, remembering what it has measured."""

    def __init__(
        self,
        model: Model,
        out: Path,
        given: Given,
        text: Text,
        calibration: Calibration | None,
        machine: Machine,
        watch: compiler.Watch,
    ) -> None:
        self._model, self._out, self._wanted, self._text = model, out, given.wanted, text
        self._cases, self._calibration, self.machine, self._watch = given.cases, calibration, machine, watch
        self._ledger = Ledger(out / MEASUREMENTS)
        self._told = hashlib.sha256(f"{text.digest}{given.cases!r}".encode()).hexdigest()
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
        known = self._recalled(self._facts(one, step.key))
        if known is not None and known.quality is None and (judge := _judge_of(one)) is not None:
            of_judge = self._recalled(self._facts(judge, step.key))
            known = dataclasses.replace(known, quality=of_judge.quality) if of_judge is not None else None
        return Outcome(known, "", receipt.machine(), None) if known is not None else None

    def _recalled(self, facts: dict[str, Any]) -> Measured | None:
        """What was measured before, unless speeds varied too much to pass: then they are taken again."""
        known = self._ledger.recall(facts)
        return known if known is not None and not gates.varied(known, self._wanted.gates) else None

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

    def endured(self, trial: Trial) -> Trial:
        """The same with its stress and stability runs, and judged by them too. Here, wherever it was measured."""
        one, measured = trial.candidate, trial.measured
        assert measured is not None
        self._watch.say(f"{one.named} in {one.engine}: stress and stability")
        key = receipt.load(Path(measured.folder))["step"]["key"]
        facts = {**self._facts(one, key), "endured": True}
        known = self._recalled(facts)
        # What was left undecided is taken again.
        if known is None or any(one.passed is None for one in gates.endured(known, self._wanted.gates)):
            known = artifact.endure(measured, self._text)
            self._ledger.keep(facts, known)
        return dataclasses.replace(trial, measured=known, verdicts=tuple(self._judge(one, known)))

    def solves(self, scheme: str) -> bool:
        """Whether the text that there may be tells something of a scheme: its codes, or the steps of activations."""
        if self._calibration is None or mix.bits(scheme) is not None or activations.told(scheme):
            return self._calibration is not None
        return bool(solve.able(quantize(self._model, chooser(scheme)), self._model))

    @property
    def told(self) -> bool:
        """Whether there is a text to calibrate on."""
        return self._calibration is not None

    @property
    def mixes(self) -> bool:
        """Whether bits can be chosen by matrix."""
        return self._calibration is not None and self._calibration.weighted

    def _place(self, scheme: str, form: str) -> tuple[Path, Calibration | None]:
        solved = self.solves(scheme)
        name = scheme.replace(":", "-")
        return self._out / (f"{name}-solved" if solved else name) / form, self._calibration if solved else None

    def _facts(self, one: Candidate, key: str) -> dict[str, Any]:
        """All that a measurement hangs on."""
        return {
            "artifact": key,
            "format": one.format,
            "engine": [one.engine, _installed.require(one.engine).version, one.kv],
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
        known = self._recalled(facts)
        if known is not None:
            return known, made.fresh
        known = artifact.measure(
            made.folder,
            one.engine,
            text=self._text,
            cases=self._cases,
            context=self._wanted.limits.context,
            kv=one.kv,
            runs=RUNS,
            say=self._watch.say,
        )
        self._ledger.keep(facts, known)
        return known, True

    def _judge(self, one: Candidate, measured: Measured) -> Iterator[Verdict]:
        wanted, limits = self._wanted, self._wanted.limits
        yield from gates.default(measured, wanted.quality, self._baseline, wanted.gates)
        yield from gates.against(measured, self._baseline, wanted.required, self.machine.cache)
        yield from gates.limits(measured, limits.size, limits.memory, limits.speed, self._unfilled(one, measured))
        endured = measured.stress is not None
        yield from gates.added(measured, [gate for gate in wanted.gates if endured or not gate.needs_endurance])

    def _unfilled(self, one: Candidate, measured: Measured) -> int:
        """Bytes of KV cache between what the measurement filled and the context that is asked for."""
        engine, spec = plugins.load("engines", one.engine).FOOTPRINT, self._model.spec
        held = measured.reserved if engine.reserved else measured.filled
        more = max(0, min(self._wanted.limits.context, spec.context) - held)
        return memory.kv_cache(spec, more, memory.number(one.engine, one.kv))


def _judge_of(one: Candidate) -> Candidate | None:
    """The same codes in the preferred installed engine that gives logits; None where the candidate's own does."""
    names = [name for name in _installed.engines_for(one.format) if "logits" in plugins.load("engines", name).CAN]
    able = [name for name in names if _installed.installed(name) and one.kv in plugins.load("engines", name).KV]
    return dataclasses.replace(one, engine=able[0]) if able and one.engine not in names else None


def _label(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
