"""Models side by side, from headers and shapes: sizes by scheme, and what the planner says of each. Reads no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmops.core import roles
from slmops.core.model import Model
from slmops.core.scheme import stored_as
from slmops.passes.quantize import packed
from slmops.plan import rank
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine
from slmops.plan.tiers import tier

SCHEMES = ("q4", "q8", "f16")
"""Of the sizes; what is quantized already has its own only."""


@dataclass(frozen=True)
class Beside:
    """One of the models."""

    family: str
    parameters: int
    tier: str
    licence: str | None
    context: int
    format: str
    """In which the sizes are: the machine's usual one that can hold it."""
    sizes: dict[str, int]
    """Scheme -> bytes."""
    memory: dict[str, int]
    """Scheme -> likely bytes of memory at run time, at the context that is asked for."""
    choice: Candidate | None
    """8 bits where they fit and are fast enough, else what is fastest of what fits."""
    fast: bool
    against: str
    """Why nothing fits; empty where something does."""


def beside(model: Model, machine: Machine, limits: Limits, formats: Sequence[str] | None, here: bool) -> Beside:
    """What there is to say of a model on a machine. Raises UsageError for limits that make no sense."""
    found = rank.usual(model, machine, limits, formats, here, None if packed(model) else SCHEMES)
    held = [one for one in found if one.memory is not None and one.kv == "auto"]
    able = rank.fitting(found, machine)
    choice, fast = rank.best(able, limits.speed) if able else (None, False)
    nearest = min(found, key=lambda one: one.memory.low if one.memory else 1 << 62, default=None)
    lacks = (nearest.dropped or "more memory than there is") if nearest is not None else "no format can hold it"
    own = _stored(model) if packed(model) else ""
    return Beside(
        family=model.spec.family,
        parameters=model.parameters,
        tier=tier(model.parameters),
        licence=model.licence,
        context=model.spec.context,
        format=found[0].format if found else "",
        sizes={own or one.scheme: one.size for one in held},
        memory={own or one.scheme: one.memory.total for one in held if one.memory is not None},
        choice=choice,
        fast=fast,
        against="" if choice is not None else lacks,
    )


def _stored(model: Model) -> str:
    """The scheme that most of its matrices have."""
    used = [stored_as(tensor) for role, tensor in model.tensors.items() if roles.facts(role).quantize]
    return max(used, key=used.count)
