"""Whether an artifact is good enough: each gate's verdict with the figure, its interval and the number of samples.

A gate passes when the whole interval clears the bound, fails when the whole interval misses it, and is otherwise undecided:
then it says how many more samples would decide it. Undecided blocks like failed does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from slmops.core import units
from slmops.measure import statistics
from slmops.measure.artifact import Measured
from slmops.measure.statistics import Estimate

QUALITY, SPREAD, FASTER, LEANER = 0.95, 0.5, 2.0, 0.5
"""Quality retained at least; spread of decoding speed at most; speed and memory against the unquantized baseline."""


@dataclass(frozen=True)
class Verdict:
    """What one gate says."""

    gate: str
    passed: bool | None
    """None where it could not be decided, or does not apply."""
    blocks: bool
    """Whether the artifact is refused unless it passed; else the gate only advises."""
    said: str
    """The figure, its interval, the sample size, the bound, and what is missing, in a sentence."""

    @property
    def stops(self) -> bool:
        return self.blocks and self.passed is not True


def at_least(gate: str, found: Estimate, bound: float, unit: str = "samples", blocks: bool = True) -> Verdict:
    """The figure must be `bound` or more. `unit` names what a cluster is."""
    figure = f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g}, {found.clusters:,} {unit})"
    if found.low >= bound:
        return Verdict(gate, True, blocks, f"{figure}, at least {bound:g} is asked")
    if found.high < bound:
        return Verdict(gate, False, blocks, f"{figure}, at least {bound:g} is asked")
    more = statistics.more_samples(found, bound)
    cure = f"about {more:,} more {unit} would decide it" if more else "no number of samples is known that would decide it"
    return Verdict(gate, None, blocks, f"{figure} holds the bound of {bound:g}: {cure}")


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
    said = f"{speed.spread:.0%} of the median over {speed.runs} runs, at most {bound:.0%} is allowed"
    return Verdict("latency spread", speed.spread <= bound, True, said)


def faster(one: Measured, baseline: Measured, bound: float = FASTER, blocks: bool = False) -> Verdict:
    """Against the unquantized baseline, decoding."""
    if one.speed is None or baseline.speed is None or not one.speed.decodes or not baseline.speed.decodes:
        return Verdict("faster than unquantized", None, blocks, "one of the two was not timed")
    found = statistics.quotient(one.speed.decodes, baseline.speed.decodes)
    return at_least("faster than unquantized", found, bound, "runs", blocks)


def leaner(
    one: Measured, baseline: Measured, cache: int | None = None, bound: float = LEANER, blocks: bool = False
) -> Verdict:
    """Weights and KV cache (memory above the empty worker) against the unquantized baseline."""
    if cache is not None and baseline.bytes <= cache:
        said = f"not applicable: the unquantized weights ({units.size(baseline.bytes)}) fit in the last-level cache"
        return Verdict("leaner than unquantized", None, False, said)
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
