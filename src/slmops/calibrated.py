"""What a calibration text tells of a conversion: the scheme of each matrix of a mix, steps of activations, better codes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops.core import plugins
from slmops.core.errors import EngineMissing, Unsupported, UsageError
from slmops.core.model import Model
from slmops.core.scheme import Chooser
from slmops.core.watch import Watch
from slmops.passes import activations, mix, smooth, solve, tune
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import packed


def mixed(
    model: Model, formats: Sequence[str], scheme_name: str, calibration: Calibration | None, watch: Watch
) -> Chooser | None:
    """The scheme of each matrix of a mix; None for what is no mix. Raises UsageError where it cannot be told."""
    per_weight = mix.bits(scheme_name)
    if per_weight is None:
        return None
    if calibration is None:
        raise UsageError(f"{scheme_name} needs a text that tells which matrices matter", "add --calibrate FILE")
    if packed(model):
        raise Unsupported("a mix is chosen by a model's own numbers, and these are codes", "give the checkpoint itself")
    if not calibration.weighted:
        raise EngineMissing(
            f"{scheme_name} weighs matrices by gradients, which takes PyTorch", 'pip install "slmops[train]"'
        )
    names = mixable(formats)
    if len(names) < 2:
        raise UsageError(f"{' and '.join(formats)} have no schemes in common that mix", "convert to one at a time")
    watch.say("calibrating")
    return mix.mix(model, names, per_weight, calibration.moments)


def mixable(formats: Sequence[str]) -> list[str]:
    """Schemes that one artifact of each of these formats may hold side by side (MIXES in its file)."""
    listed = [getattr(plugins.load("formats", name), "MIXES", ()) for name in formats]
    return [name for name in listed[0] if all(name in other for other in listed)]


def text_for_steps(model: Model, scheme_name: str, calibration: Calibration | None) -> Calibration:
    """The text that tells steps of activations. Raises UsageError without one, Unsupported with an adapter."""
    if calibration is None:
        raise UsageError(f"{scheme_name} needs a text that tells how large activations are", "add --calibrate FILE")
    if calibration.tune:
        raise UsageError(f"scales of {scheme_name} cannot be tuned", "leave --tune out")
    if model.adapter is not None:
        raise Unsupported(f"{scheme_name} leaves no place for an adapter beside it", "merge it: leave --beside out")
    return calibration


def stepped(model: Model, calibration: Calibration, watch: Watch) -> Model:
    """With the steps that activations are rounded by; of plain numbers, once their channels are evened out."""
    watch.say("calibrating")
    if not packed(model):
        model = smooth.smooth(model, calibration.windows)
    return dataclasses.replace(model, steps=activations.steps(model, calibration.windows))


@dataclass(frozen=True)
class Solved:
    """A model with better codes in the same places."""

    model: Model
    notes: tuple[str, ...]
    sensitivities: Callable[[], Mapping[str, float]]
    """What each matrix's codes cost in divergence, once they are made; empty where no gradients tell."""


def solved(
    quantized: Model, source: Model, scheme_name: str, calibration: Calibration, scratch: Path, watch: Watch
) -> Solved:
    """Codes that are solved for. Raises Unsupported where none of the schemes can be."""
    roles_of = solve.able(quantized, source)
    if not roles_of:
        raise Unsupported(
            f"codes of {scheme_name} cannot be solved for yet",
            "leave the calibration out to round to the nearest",
        )
    watch.say("calibrating")
    model = solve.solve(quantized, source, calibration.moments, scratch)
    how = ", weighted by gradients" if calibration.weighted else ""
    notes = [f"{len(roles_of)} matrices solved for by {calibration.tokens:,} tokens of text{how}"]
    if calibration.tune:
        done = tune.tune(model, source, calibration.windows, calibration.tune, scratch, watch.say)
        model = done.model
        notes.append(f"scales and norms tuned: KL divergence of held-back windows {done.before:.4g} to {done.after:.4g}")
    nats = functools.partial(mix.sensitivities, model, source, calibration.moments if calibration.weighted else {})
    return Solved(model, tuple(notes), nats)
