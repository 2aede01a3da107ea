"""Whether an artifact is good enough: each gate's verdict with the figure, its interval and the number of samples.

A gate passes when the whole interval clears the bound, fails when the whole interval misses it, and is otherwise undecided:
then it says how many more samples would decide it. Undecided blocks like failed does. All intervals are 95 %, so a figure
that sits on its bound passes one time in forty.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slmops.core import units
from slmops.core.errors import UsageError
from slmops.measure import artifact, statistics, stress
from slmops.measure.artifact import Measured
from slmops.measure.statistics import Estimate
from slmops.measure.tasks import Answers

QUALITY, SPREAD, FASTER, LEANER = 0.95, 0.5, 2.0, 0.5
"""Quality retained at least; spread of decoding speed at most; speed and memory against the unquantized baseline."""
ADVISING = ("speed", "memory")
"""Gates against the unquantized baseline that block only when they are required."""
OPERATORS = {"<=": float.__le__, ">=": float.__ge__, "<": float.__lt__, ">": float.__gt__}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "tok/s": 1.0, "%": 0.01}


@dataclass(frozen=True)
class Verdict:
    """What one gate says."""

    gate: str
    passed: bool | None
    """None where it could not be decided, or does not apply (`applies`)."""
    blocks: bool
    """Whether the artifact is refused unless it passed; else the gate only advises."""
    said: str
    """The figure, its interval, the sample size, the bound, and what is missing, in a sentence."""
    applies: bool = True
    """False where the question makes no sense here, which stops nothing."""

    @property
    def stops(self) -> bool:
        return self.blocks and self.applies and self.passed is not True


def at_least(gate: str, found: Estimate, bound: float, unit: str = "samples", blocks: bool = True) -> Verdict:
    """The figure must be `bound` or more. `unit` names what a cluster is."""
    return compared(gate, found, ">=", bound, unit, blocks)


def compared(gate: str, found: Estimate, operator: str, bound: float, unit: str, blocks: bool = True) -> Verdict:
    """The figure must stand on the asked side of the bound: <=, <, >= or >."""
    figure = f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)}, {found.clusters:,} {unit})"
    asked = f"{ {'>=': 'at least', '<=': 'at most'}.get(operator, operator) } {_number(bound)} is asked"
    ends = [OPERATORS[operator](end, bound) for end in (found.low, found.high)]
    if all(ends) and not math.isnan(found.value):
        return Verdict(gate, True, blocks, f"{figure}, {asked}")
    # Both ends of an interval that holds nothing but NaN miss every bound: that is no measurement, and decides nothing.
    if not any(ends) and not math.isnan(found.low + found.high):
        return Verdict(gate, False, blocks, f"{figure}, {asked}")
    more = statistics.more_samples(found, bound)
    cure = f"about {more:,} more {unit} would decide it" if more else "no number of samples is known that would decide it"
    return Verdict(gate, None, blocks, f"{figure} holds the bound of {_number(bound)}: {cure}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def quality(one: Measured, bound: float = QUALITY, parent: Measured | None = None) -> Iterable[Verdict]:
    """The share of the source's quality that is kept: by perplexity on the text, and by tasks that the parent ran."""
    if one.quality is None:
        yield Verdict("quality", None, True, "no text was given, or the engine gives no logits: give --text")
    else:
        yield at_least("quality", one.quality.retained, bound, "windows")
    if one.answers is None or parent is None or parent.answers is None:
        return
    count = min(len(one.answers.right), len(parent.answers.right))
    pair = statistics.mcnemar(one.answers.right[:count], parent.answers.right[:count])
    allowed = -(1 - bound) * parent.answers.score().rate
    yield at_least("tasks against the parent", pair.difference, allowed, "cases")


def steady(one: Measured, bound: float = SPREAD) -> Verdict:
    """Repeated runs must agree on the speed."""
    speed = one.speed
    if speed is None or speed.runs < 2 or not math.isfinite(speed.spread):
        return Verdict("latency spread", None, True, "one run has no spread: measure 3 or more")
    known = statistics.mean(speed.decodes)
    runs = f"{speed.runs} runs" + (f", the steadiest of {speed.batches} batches" if speed.batches > 1 else "")
    said = f"from the slowest to the fastest run {speed.spread:.0%} of the median, at most {bound:.0%} is allowed; decode "
    said += f"{known.value:,.0f} tokens/s ({known.low:,.0f} to {known.high:,.0f}, {runs})"
    return Verdict("latency spread", speed.spread <= bound, True, said)


def endured(one: Measured, asked: Iterable[Gate] = ()) -> Iterable[Verdict]:
    """The stress run without a fault; then the same answers, memory and speed over many requests. asked: see `default`."""
    others = {gate.place for gate in asked}
    shaken, steady = one.stress, one.stability
    if shaken is None:
        yield Verdict("stress", None, True, "the stress run was not made")
        return
    said = f"{len(shaken.faults)} faults in {shaken.requests} requests, the longest of {shaken.longest:,} tokens, "
    said += f"{shaken.at_once} at once; logits of {shaken.looked:,} positions looked at"
    yield Verdict("stress", not shaken.faults, True, "; ".join((said, *shaken.faults[:3])))
    if steady is None:
        yield Verdict("stability", False, True, "the engine did not live through it")
        return
    share = statistics.proportion(steady.identical, steady.requests)
    said = f"{steady.identical} of {steady.requests} greedy answers were the first one to their prompt "
    said += f"({share.low:.1%} to {share.high:.1%})"
    yield Verdict("stability: answers", steady.identical == steady.requests, True, said)
    if "stability.growth" not in others:
        yield compared("stability: memory that 1,000 requests add", steady.growth, "<=", stress.GROWTH, "rounds")
    if "stability.slowdown" not in others:
        how = "pairs beside a fresh process" if steady.beside else "rounds"
        yield compared("stability: slowdown", steady.slowdown, "<=", stress.SLOWDOWN, how)


def faster(
    one: Measured, baseline: Measured, raced: Estimate | None = None, bound: float = FASTER, blocks: bool = False
) -> Verdict:
    """Against the unquantized baseline, decoding: of pairs where they were `raced`, else of the runs of each."""
    if one.speed is None or baseline.speed is None or not one.speed.decodes or not baseline.speed.decodes:
        return Verdict("faster than unquantized", None, blocks, "one of the two was not timed")
    found = raced or statistics.quotient(one.speed.decodes, baseline.speed.decodes)
    return at_least("faster than unquantized", found, bound, "pairs" if raced else "runs", blocks)


def leaner(
    one: Measured, baseline: Measured, cache: int | None = None, bound: float = LEANER, blocks: bool = False
) -> Verdict:
    """Weights and KV cache (memory above the empty worker) against the unquantized baseline."""
    if cache is not None and baseline.bytes <= cache:
        said = f"not applicable: the unquantized weights ({units.size(baseline.bytes)}) fit in the last-level cache"
        return Verdict("leaner than unquantized", None, blocks, said, applies=False)
    taken, before = one.peak - one.base, baseline.peak - baseline.base
    if before <= 0:
        return Verdict("leaner than unquantized", None, blocks, "the baseline took no memory that could be told")
    share = taken / before
    said = f"{share:.0%} of the baseline's memory above the empty worker, at most {bound:.0%} is asked (one run each)"
    return Verdict("leaner than unquantized", share <= bound, blocks, said)


def limits(one: Measured, size: int | None, memory: int | None, speed: float | None, unfilled: int = 0) -> Iterable[Verdict]:
    """What the user asked for, as measured. unfilled: bytes of the KV cache that the measurement did not fill."""
    if size is not None:
        said = f"{one.bytes:,} bytes, at most {size:,} are allowed (exact)"
        yield Verdict("size", one.bytes <= size, True, said)
    if memory is not None:
        more = f" and {unfilled:,} for the rest of the context" if unfilled else ""
        said = f"{one.peak:,} bytes at the peak{more}, at most {memory:,} are allowed (one run)"
        yield Verdict("memory", one.peak + unfilled <= memory, True, said)
    if speed is not None:
        if one.speed is None or not one.speed.decodes:
            yield Verdict("speed", None, True, "it was not timed")
        else:
            yield at_least("speed in tokens/s", statistics.mean(one.speed.decodes), speed, "runs")


@dataclass(frozen=True)
class Gate:
    """What a user asks of one figure."""

    text: str
    place: str
    """Of the figure in the JSON of a measurement."""
    operator: str
    bound: float

    @property
    def needs_endurance(self) -> bool:
        """Whether its figure is of the stress or stability run."""
        return self.place.startswith(("stress.", "stability."))


def parse(text: str) -> Gate:
    """METRIC OP NUMBER[unit], such as `quality.kl<=0.02`, `peak < 800MB`, `speed.first_token<=50ms`.

    METRIC is the place of a figure in the JSON of `slmops measure`, or the end of it where that is enough to tell.
    Raises UsageError, which lists the figures where METRIC is none.
    """
    number = r"-?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
    match = re.fullmatch(rf"\s*([\w.]+)\s*(<=|>=|<|>)\s*({number})\s*([A-Za-z/%]*)\s*", text)
    if match is None:
        raise UsageError(f"{text!r} is no gate", "METRIC OP NUMBER, such as 'quality.kl<=0.02' or 'peak<=800MB'")
    factors = {**TIMES, **units.BYTES}
    if (unit := match[4].lower()) not in factors:
        raise UsageError(f"{match[4]!r} in {text!r} is no unit", f"one of: {', '.join(filter(None, factors))}")
    known = list(_places(Measured, ""))
    # N stands for a number of requests in flight.
    wanted = re.sub(r"(^|\.)concurrency\.\d+\.", r"\1concurrency.N.", match[1])
    found = [place for place in known if place == wanted] or [place for place in known if place.endswith("." + wanted)]
    if len(found) != 1:
        fault = "stands for several figures" if found else "is no figure that is measured"
        raise UsageError(f"{match[1]!r} in {text!r} {fault}", f"one of: {', '.join(found or known)}")
    level = re.search(r"concurrency\.(\d+)\.", match[1])
    place = found[0].replace(".N.", f".{level[1]}.") if level else found[0]
    if ".N." in place:
        raise UsageError(f"{match[1]!r} in {text!r} stands for several figures", f"say of how many requests: {place}")
    return Gate(text.strip(), place, match[2], float(match[3]) * factors[unit])


def _places(kind: Any, place: str) -> Iterator[str]:
    """Where a value of this type has figures."""
    parts = [one for one in typing.get_args(kind) if one is not type(None)]
    if kind in (int, float, Estimate):
        yield place
    elif dataclasses.is_dataclass(kind):
        for name, own in typing.get_type_hints(kind).items():
            yield from _places(own, f"{place}.{name}" if place else name)
        if kind is Answers:
            yield f"{place}.share"
    elif typing.get_origin(kind) is types.UnionType:
        yield from _places(parts[0], place)
    elif typing.get_origin(kind) is dict and parts[0] is str:
        yield from _places(parts[1], f"{place}.N")


def figure(one: Measured, place: str) -> Estimate | None:
    """A figure by its place in the JSON; None where it was not taken. One that was taken once has no width."""
    if place in ("speed.decode", "speed.first_token") and one.speed and one.speed.decodes:
        # The JSON has medians of the runs; a gate needs an interval, so it takes their mean.
        return statistics.mean(one.speed.decodes if place == "speed.decode" else one.speed.first_tokens)
    value: Any = artifact.facts(one)
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return Estimate(**value)
    return None if value is None else Estimate(float(value), float(value), float(value), 1, 1)


def added(one: Measured, wanted: Iterable[Gate]) -> Iterator[Verdict]:
    """What the user's own gates say."""
    for gate in wanted:
        found = figure(one, gate.place)
        if found is None:
            yield Verdict(gate.text, None, True, f"{gate.place} was not taken")
        else:
            unit = "samples" if found.clusters > 1 else "measurement"
            yield compared(gate.text, found, gate.operator, gate.bound, unit)


def varied(one: Measured, asked: Iterable[Gate] = ()) -> bool:
    """Whether speeds varied more than is allowed, by a busy machine for the most part: worth measuring again."""
    own = [gate for gate in asked if gate.place == "speed.spread"]
    return any(verdict.passed is False for verdict in (added(one, own) if own else [steady(one)]))


def default(
    one: Measured, bound: float = QUALITY, parent: Measured | None = None, asked: Iterable[Gate] = ()
) -> Iterator[Verdict]:
    """What blocks unless told otherwise; stress and stability of what has been through them.

    asked: the user's own gates. One on the spread of speeds, on growth or slowdown stands in the place of ours: a machine
    that others use may need another bound.
    """
    asked = tuple(asked)
    if one.altered:
        yield Verdict("as proven", False, True, one.altered)
    yield from quality(one, bound, parent)
    if not any(gate.place == "speed.spread" for gate in asked):
        yield steady(one)
    if one.stress is not None:
        yield from endured(one, asked)


def against(
    one: Measured,
    baseline: Measured | None,
    required: Collection[str] = (),
    cache: int | None = None,
    raced: Estimate | None = None,
) -> Iterator[Verdict]:
    """What advises, and blocks where it is required: against the unquantized model.

    cache: bytes of the last-level cache; raced: decoding speed over the baseline's, of pairs.
    """
    if baseline is not None:
        yield faster(one, baseline, raced, blocks="speed" in required)
        yield leaner(one, baseline, cache, blocks="memory" in required)
    else:
        yield from (Verdict(f"{name} against unquantized", None, True, "there is no baseline") for name in required)
