"""Which model of the catalogue for this device and use: what fits, the largest first. Reads and downloads nothing.

Of each model the 4-bit and the 8-bit form are predicted in the device's usual format, or in the next one that can hold the
model. The 8-bit form is taken where it fits and is fast enough, else the 4-bit one. What is made for the task and answers at
reading speed stands first, the largest at the top: published scores are taken differently by each maker, so they are not
compared, and size is the best single sign of quality within a generation. Sizes and memory come from the same planner as
for a model at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmops.core import units
from slmops.core.model import Model
from slmops.plan import decide, memory, models
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine
from slmops.plan.models import Described

LEAST, MORE = ("q4", 2048), ("q8", 8192)
"""Scheme and context that minimum and recommended memory are for."""
READING = 10.0
"""Tokens a second below which an answer is waited for: about twice a reader's pace."""


@dataclass(frozen=True)
class Ranked:
    """A model with the form of it that suits the device best, or why none does."""

    described: Described
    choice: Candidate | None
    minimum: int
    """Bytes of memory for 4 bits and 2,048 tokens, in the leanest of the formats."""
    recommended: int
    """The same for 8 bits and 8,192 tokens."""
    reasons: tuple[str, ...]
    """For it where it is chosen, against it where it is not."""
    fast: bool = False
    """Whether it answers at reading speed, by the likely figure."""


def rank(
    machine: Machine, limits: Limits, task: str | None, formats: Sequence[str] | None, here: bool = True
) -> list[Ranked]:
    """Every model of the catalogue, the best first, the dropped ones last. `here`: engines must be installed.

    formats: those that the device opens, the usual one first; by default all, the one with the fastest engine first.
    """
    found = [_judged(models.load(name), machine, limits, task, formats, here) for name in models.names()]
    return sorted(found, key=_order)


def _order(one: Ranked) -> tuple[bool, bool, float]:
    """What is fast enough by its size, the largest first; of the slow the fastest first."""
    slow = one.choice is not None and not one.fast
    return one.choice is None, slow, -(one.choice.speed[1] if slow and one.choice else one.described.model.parameters)


def _judged(
    one: Described, machine: Machine, limits: Limits, task: str | None, formats: Sequence[str] | None, here: bool
) -> Ranked:
    found = usual(one.model, machine, limits, formats, here)
    least, more = (_memory(one, found, *wanted) for wanted in (LEAST, MORE))
    against = []
    if task is not None and task not in one.strengths:
        against.append(f"not made for {task} (but {', '.join(one.strengths)})")
    if limits.context > one.context:
        against.append(f"{limits.context:,} tokens of context are asked, {one.context:,} it has")
    able = fitting(found, machine)
    if not able and found:
        # The reason of what came nearest: the leanest of those that can be written at all.
        nearest = min(found, key=lambda each: (each.memory is None, each.memory.low if each.memory else 0))
        beyond = f"about {units.size(nearest.memory.total if nearest.memory else 0)} of memory"
        against.append(nearest.dropped or f"{beyond}, {units.size(machine.usable)} can be had")
    if against:
        return Ranked(one, None, least, more, tuple(against))
    choice, quick = best(able, limits.speed)
    return Ranked(one, choice, least, more, tuple(_why(one, choice, machine, task, quick)), fast=quick)


def fitting(found: Sequence[Candidate], machine: Machine) -> list[Candidate]:
    """A limit drops what surely breaks it; here what likely would is no choice either."""
    return [each for each in found if not each.dropped and each.memory and each.memory.total <= machine.usable]


def best(able: Sequence[Candidate], speed: float | None) -> tuple[Candidate, bool]:
    """Of what is fast enough the most bits, and whether there is such a one; else the first, which is the fastest."""
    quick = [each for each in able if each.speed[1] >= (speed or READING)]
    most = max(quick, key=lambda each: (each.scheme == MORE[0], each.kv == "auto", each.speed[1]), default=able[0])
    return most, bool(quick)


def usual(
    model: Model,
    machine: Machine,
    limits: Limits,
    formats: Sequence[str] | None,
    here: bool,
    schemes: Sequence[str] | None = (LEAST[0], MORE[0]),
) -> list[Candidate]:
    """The candidates of the first format that can hold the model (and be opened); of the last where none can.

    formats: those of a target, the usual one first; by default all, the one with the fastest engine first.
    """
    formats = formats or sorted(memory.writers(), key=lambda form: -memory.footprint(form)[1].efficiency)
    found: list[Candidate] = []
    for form in formats:
        if here and found and decide.lacking(memory.footprint(form)[0]):
            continue
        found = decide.candidates(model, machine, limits, (form,), schemes, here=here)
        if any(each.memory is not None for each in found) and not (here and decide.lacking(found[0].engine)):
            break
    return found


def _memory(one: Described, found: Sequence[Candidate], scheme: str, context: int) -> int:
    """Likely bytes of the leanest format for a scheme and a context; 0 where the model cannot be written in any."""
    spec = one.model.spec
    taken = [
        memory.of(spec, each.format, scheme, min(context, one.context), each.memory.weights, one.model.parameters).total
        for each in found
        if each.scheme == scheme and each.memory is not None
    ]
    return min(taken, default=0)


def _why(one: Described, choice: Candidate, machine: Machine, task: str | None, fast: bool) -> list[str]:
    assert choice.memory is not None
    found = [] if task else [f"made for {', '.join(one.strengths)}"]
    found.append(f"{choice.memory.total / machine.usable:.0%} of the memory")
    found.append("8 bits, nearly lossless" if choice.scheme == MORE[0] else "4 bits: measure its quality")
    if choice.kv != "auto":
        found.append(f"with a KV cache of {choice.kv}")
    if not fast:
        found.append("slower than one reads")
    if one.gated:
        found.append("its terms must be accepted on the Hub first")
    return found
