"""Leave channels of the MLPs out: those that add least to what the layer gives, by the activations on a text.

A channel adds a_j * down[:, j]; the mean square of that is E[a_j^2] * |down[:, j]|^2, where a is the input of the down
projection (the diagonal of Wanda's and FLAP's criteria, Sun et al. 2023, An et al. 2023). Each layer keeps as many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from slmops.core import roles
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.core.tensor import Array, Floats, Tensor, row_blocks
from slmops.passes import _prune

STEPS = (256, 32)
"""Widths are multiples of: of 256 K-quants' super-blocks are made, of 32 every other format's groups."""


def width(intermediate: int, fraction: float) -> int:
    """The channels to keep: the multiple of 256 that is next to the fraction, or where there is none of 32.

    Raises UsageError for a fraction that keeps all, or too few.
    """
    if 0 < fraction < 1:
        for step in STEPS:
            kept = round(intermediate * fraction / step) * step
            if 0 < kept < intermediate:
                return kept
    raise UsageError(
        f"{fraction:g} of {intermediate:,} channels cannot be kept",
        "a fraction above 0 and below 1 that leaves a multiple of 32 of them, such as 0.75",
    )


def importance(model: Model, windows: Array) -> dict[int, Array]:
    """Layer -> mean square of what each channel adds, f64 [intermediate]. windows: ids int64 [windows, positions]."""
    _prune.refuse(model)
    body = _Squares(model)
    body.run(windows)
    found = {}
    for role, squares in body.sums.items():
        layer = roles.layer(role)
        assert layer is not None
        found[layer] = squares / windows.size * _column_norms(model.tensors[role])
    return found


def _column_norms(tensor: Tensor) -> Array:
    """Squared norm of each column, f64."""
    total = np.zeros(tensor.shape[1])
    for start, stop in row_blocks(tensor.shape):
        total += np.square(tensor.rows(start, stop).astype(np.float32)).sum(axis=0, dtype=np.float64)
    return total


def prune_width(model: Model, scores: Mapping[int, Array], kept: int) -> Model:
    """The model with the `kept` channels of the highest scores in each layer, in their old order."""
    _prune.refuse(model)
    total = model.spec.intermediate
    if not 0 < kept < total:
        raise UsageError(f"{kept} of {total} channels cannot be kept", f"from 1 to {total - 1} can")
    # Of equals the first stay, on every machine.
    best = {layer: np.sort(np.argsort(-score, kind="stable")[:kept]) for layer, score in scores.items()}

    def channels(role: str) -> Array:
        layer = roles.layer(role)
        assert layer is not None
        return best[layer]

    spec = dataclasses.replace(model.spec, intermediate=kept)
    thin = _prune.resized(model, spec, {**model.config, "intermediate_size": kept}, total, channels)
    note = f"{total - kept:,} of {total:,} channels of each MLP left out"
    return _prune.noted(thin, note, [best[layer].tolist() for layer in sorted(best)])


class _Squares(_prune.Body):
    """Adds up the squares of what goes into each down projection: `sums`, by role."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.sums: dict[str, Array] = {}

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        if roles.kind(weight) == "mlp.down":
            squares = np.square(x.reshape(-1, x.shape[-1])).sum(axis=0, dtype=np.float64)
            self.sums[weight] = self.sums[weight] + squares if weight in self.sums else squares
        return super().linear(x, weight, bias)
