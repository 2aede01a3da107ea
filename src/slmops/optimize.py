"""The main job: predict, make the most telling candidates, measure them, and choose the best that passes its gates.

The search is bounded, not a grid: search.py decides what comes next and when the front can no longer change, by the
predictions of forecast.py; in trials.py candidates are made, proven, measured and judged. What was measured before tells
of the rest before anything new is begun; what would be the choice has stress and stability to bear first.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops import compile as compiler
from slmops import forecast, prove, search
from slmops.core import plugins
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.engines import _installed
from slmops.executors import Start
from slmops.plan import decide
from slmops.plan.decide import Candidate
from slmops.plan.hardware import Machine
from slmops.search import Seen
from slmops.trials import MEASUREMENTS, Given, Trial, Wanted, elsewhere, laboratory

SHOWN = ("quality", "size", "speed")
"""What the front is of where one objective is asked for."""


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


def optimize(
    model: Model,
    out: Path,
    given: Given,
    machine: Machine,
    watch: compiler.Watch | None = None,
    executor: str = "local",
) -> Found:
    """Search. Artifacts go to `out`/SCHEME/FORMAT and measurements beside them, so that another run goes on from there.

    executor: a name in executors/; where it is not the local one, `machine` is that of its first node.
    Raises UsageError where nothing can be made here at all.
    """
    watch, wanted = watch or compiler.Watch(), given.wanted
    began = time.perf_counter()
    names = search.objectives(wanted.objective)
    runner = plugins.load("executors", executor)
    start: Start = lambda check: laboratory(model, out, given, machine, watch)  # noqa: E731
    if runner.ELSEWHERE:
        (out / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
        path = str(Path(str(model.source["path"])).resolve())
        start = functools.partial(elsewhere, path, compiler.fingerprint(model), out.resolve(), given)
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(runner.open(start, watch.say))
        machine = nodes.machine
        lab = stack.enter_context(laboratory(model, out, given, machine, watch))
        lean = "memory" in names
        listed = decide.candidates(
            model, machine, wanted.limits, wanted.formats, wanted.schemes, told=lab.told, mixes=lab.mixes, lean=lean
        )
        if not listed:
            raise UsageError("there is nothing to choose from", "give other --format or --scheme")
        able = [one for one in listed if not one.dropped and prove.impractical(one.engine, model) is None]
        able = [one for one in able if not prove.emulated(one.engine)]
        trials: list[Trial] = []
        if (first := baseline(listed, machine)) is not None:
            trials.append(lab.baseline(next(nodes.run([first]))[1], first))
            able = [first, *(one for one in able if one.key != first.key)]
        trials += [lab.judged(one, known) for one in able if one is not first and (known := lab.recall(one)) is not None]
        watch.say(f"predicting {len(able)} candidates")
        traits = {one.scheme: forecast.traits(model, one.scheme, lab.solves(one.scheme)) for one in able}
        hunt = search.Search(able, traits, names, wanted.limits, wanted.quality, lab.positions, forecast.beside(model))
        said = 0
        while True:
            seen = [_seen(one, trials[0]) for one in trials]
            steps = _steps(seen, wanted)
            for line in steps[said:]:
                watch.say(line)
            said = len(steps)
            chosen = search.choose(seen, names)
            best = trials[seen.index(chosen)] if chosen is not None else None
            rest = wanted.budget - (time.perf_counter() - began)
            batch = hunt.next(seen, nodes.slots)
            if batch and (rest > 0 or not trials):
                what = ", ".join(one.named for one in batch)
                watch.say(f"{what}: {len(trials)} of {len(able)} measured, {max(0.0, rest):.0f} s of the budget left")
                trials += [lab.judged(one, outcome) for one, outcome in nodes.run(batch)]
            elif best is not None and best.measured is not None and best.measured.stress is None:
                # Where it cannot bear them, the search goes on.
                trials[trials.index(best)] = lab.endured(best)
            else:
                break
    stopped = "no other candidate could change the answer" if len(able) > len(trials) else "every candidate was measured"
    tried = {one.candidate.key for one in trials}
    front = search.front([one for one in seen if one.passed], names) if len(names) > 1 else search.front(seen, SHOWN)
    return Found(
        trials=tuple(trials),
        choice=best,
        front=tuple(trials[seen.index(one)] for one in front),
        unmeasured=tuple(one for one in able if one.key not in tried),
        dropped=tuple(one for one in listed if one.dropped),
        relax=() if best else tuple(_relax(trials, listed, wanted, names)),
        machine=machine,
        seconds=time.perf_counter() - began,
        stopped=f"the budget of {wanted.budget:.0f} s is spent" if batch else stopped,
        steps=tuple(steps),
    )


def baseline(listed: Sequence[Candidate], machine: Machine) -> Candidate | None:
    """The unquantized model in the engine that decodes it fastest by prediction; what the others are compared with."""
    dense = [one for one in listed if one.scheme == "f16" and one.memory and _installed.installed(one.engine)]
    dense = [one for one in dense if not prove.emulated(one.engine)]
    dense = [one for one in dense if one.memory and one.memory.low < machine.usable]
    # With its usual KV cache where that can be: the others are compared with the model as it is.
    return max(dense, key=lambda one: (one.kv == "auto", one.speed[1]), default=None)


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
        kept, what = 1 - (best.lost or 0.0), best.candidate.named
        verdict = "enough" if best.good else "not enough"
        lines.append(f"{name}: {what} keeps at least {kept:.3f} of the quality, {wanted.quality:g} is asked: {verdict}")
    return lines


def _relax(trials: Sequence[Trial], listed: Sequence[Candidate], wanted: Wanted, names: Sequence[str]) -> Iterator[str]:
    """The trial with the fewest blocking verdicts, and what it lacks; before that, what prediction says."""
    yield from decide.relax(listed, wanted.limits) if all(one.dropped for one in listed) else ()
    measured = [one for one in trials if one.measured]
    if measured:
        near = min(
            measured, key=lambda one: (sum(verdict.stops for verdict in one.verdicts), _seen(one, trials[0]).cost(names[0]))
        )
        lacks = "; ".join(f"{verdict.gate}: {verdict.said}" for verdict in near.verdicts if verdict.stops)
        yield f"the nearest is {near.candidate.named}, which lacks {lacks}"
