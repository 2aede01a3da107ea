"""Leave layers out: those without which the model's predictions change least, measured, one after the other.

Each layer in turn is left out and the KL divergence from the whole model taken on a text; the layer of the least goes, and
the rest are measured again without it (greedy, as SLEB, Song et al. 2024). Block influence (ShortGPT, Men et al. 2024) takes
one pass instead of one for each layer and each drop, but looks at a layer's own output alone, and not again once another is
gone. At the sizes that slmops is made for the passes are affordable: what comes before the layer is computed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from slmops.core import roles
from slmops.core import spec as specs
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.core.tensor import Array, Floats
from slmops.ops.numpy import log_softmax
from slmops.passes import _prune

POSITIONS = 256
"""Whose logits are held at once. All are compared: divergences have so long a tail that a share of them misleads."""


def choose(model: Model, windows: Array, count: int, say: Callable[[str], None] = lambda _: None) -> list[tuple[int, float]]:
    """`count` layers in the order in which they go, each with the divergence (nats a token) once it is gone too.

    windows: ids int64 [windows, positions]; half of layers * count passes of them are taken. Raises UsageError where no
    layer would stay.
    """
    _prune.refuse(model)
    _check(model, count)
    truth = _Truth(model, windows)
    gone: list[tuple[int, float]] = []
    for number in range(count):
        out = {layer for layer, _ in gone}
        left = [layer for layer in range(model.spec.layers) if layer not in out]
        found, before = [], None
        for at, layer in enumerate(left):
            say(f"layer {number + 1} of {count} to drop: {at + 1} of {len(left)} tried")
            after = _prune.Body(_only(model, left[at + 1 :]))
            found.append((truth.divergence(after, before), layer))
            before = _prune.Body(_only(model, [layer])).run(windows, before)[0]
        least, layer = min(found)
        gone.append((layer, least))
    return gone


def prune_depth(model: Model, layers: Collection[int]) -> Model:
    """The model without these layers; the others are renumbered and keep their own windows and rotations.

    Raises UsageError for layers that there are not, Unsupported where config.json cannot say what each layer then does.
    """
    _prune.refuse(model)
    if not layers or not all(0 <= layer < model.spec.layers for layer in layers):
        raise UsageError(f"layers {sorted(layers)} of {model.spec.layers} cannot be dropped", "they count from 0")
    _check(model, len(set(layers)))
    kept = [layer for layer in range(model.spec.layers) if layer not in layers]
    short = _only(model, kept)
    config = _config(model, short, kept)
    names = ", ".join(map(str, sorted(layers)))
    note = f"{len(set(layers))} of {model.spec.layers} layers left out: {names}"
    return _prune.noted(_prune.agreed(dataclasses.replace(short, config=config)), note, kept)


def _check(model: Model, count: int) -> None:
    if not 0 < count < model.spec.layers:
        raise UsageError(
            f"{count} of {model.spec.layers} layers cannot be dropped", f"from 1 to {model.spec.layers - 1} can"
        )


def _only(model: Model, kept: Sequence[int]) -> Model:
    """The model of these layers, its config.json still the old one."""
    spec = model.spec
    number = {layer: at for at, layer in enumerate(kept)}
    tensors = {}
    for role, tensor in model.tensors.items():
        layer = roles.layer(role)
        if layer is None:
            tensors[role] = tensor
        elif layer in number:
            tensors[f"layers.{number[layer]}.{roles.kind(role)}"] = tensor
    windows = tuple(spec.windows[layer] for layer in kept) if spec.windows else ()
    ropes = tuple(spec.ropes[layer] for layer in kept) if spec.ropes else ()
    windows = windows if any(windows) else ()
    return dataclasses.replace(
        model, spec=dataclasses.replace(spec, layers=len(kept), windows=windows, ropes=ropes), tensors=tensors
    )


def _config(model: Model, short: Model, kept: list[int]) -> dict[str, Any]:
    """config.json of the layers that stay: its lists by layer are cut. What it had as a rule over numbers of layers (every
    sixth, from the 21st on) is no rule any more: where that makes a difference, it is written out layer by layer."""
    old = model.config
    cut = {
        key: [value[layer] for layer in kept]
        for key, value in old.items()
        if "layer" in key and isinstance(value, list) and len(value) == model.spec.layers
    }
    config = {**old, "num_hidden_layers": len(kept), **cut}
    if specs.from_config(config) == short.spec:
        return config
    spec, kinds = short.spec, ("full_attention", "sliding_attention")
    config["layer_types"] = [kinds[spec.window(layer) is not None] for layer in range(spec.layers)]
    if None in spec.ropes:
        config["no_rope_layers"] = [int(spec.rotation(layer) is not None) for layer in range(spec.layers)]
    return config


class _Truth:
    """What the whole model says of some windows. Its last hidden states are kept, not its logits: those of a real
    vocabulary take gigabytes."""

    def __init__(self, model: Model, windows: Array) -> None:
        self._body, self._windows = _prune.Body(model), windows
        self._hidden = self._body.run(windows)[1].reshape(-1, model.spec.hidden)

    def divergence(self, body: _prune.Body, start: Floats | None) -> float:
        """Mean KL divergence from it, in nats a token, of a body that begins with `start`."""
        hidden, total = body.run(self._windows, start)[1].reshape(self._hidden.shape), 0.0
        for at in range(0, len(hidden), POSITIONS):
            part = slice(at, at + POSITIONS)
            p, q = log_softmax(self._body.logits(self._hidden[part])), log_softmax(body.logits(hidden[part]))
            total += float(np.sum(np.exp(p) * (p - q), dtype=np.float64))
        return total / len(hidden)
