"""What a candidate's figures will be, with how sure that is, from those of the candidates that were measured already.

Each figure (on a log scale) is its prediction plus a sum of random effects: one that all candidates share, one for each
engine, each scheme, and so on, of a known spread. That is a Gaussian process whose covariance is that of the effects
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, 2.2): a measurement tells of all that shares an
effect with it. So one format of a scheme tells the divergence of its others, and one scheme of an engine its speed.

Predictions: bytes from the layouts, memory and speed from plan/, and for the divergence the error of the codes themselves
on a sample of rows, with which KL divergence grows (bench/search.py prints both).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core import roles
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import Array
from slmops.passes import activations, mix
from slmops.passes.quantize import chooser, quantize

MATRICES, ROWS = 24, 32
"""How many matrices, and rows of each, the error of a scheme is taken on."""
EXACT = 1e-6
"""Errors below are no errors: the engine's own rounding is greater."""
IN_STEPS = 1e-3
"""What rounding activations by steps costs, as an error of codes: their divergence is about that of such codes."""


@dataclass(frozen=True)
class Traits:
    """What a scheme does to a model's weights."""

    error: float
    """Squared error over squared weights, of a sample of rows."""
    kind: str
    """What kernels see: the schemes that most weights are stored in."""


def traits(model: Model, scheme: str, solved: bool = False) -> Traits:
    """Quantize a sample of rows. Reads a few weights of a few matrices: the embedding and every n-th of the others.

    solved: codes will be solved for, which no sample of rows shows: their error is told apart from the rounded one's.
    """
    if (per_weight := mix.bits(scheme)) is not None:
        # Each bit halves the error of a code; half of it is about what choosing and solving take off (bench/quality.py).
        known = traits(model, "q4")
        return Traits(known.error * 4.0 ** (4.5 - per_weight) / 2, "mixed")
    packed = quantize(model, chooser(scheme))
    names = [role for role in model.tensors if roles.facts(role).quantize]
    error = norm = 0.0
    sizes: dict[str, int] = {}
    for role in dict.fromkeys([names[0], *names[:: max(1, len(names) // MATRICES)]]):
        before, after = model.tensors[role], packed.tensors[role]
        stop = min(ROWS, before.shape[0])
        whole = np.asarray(before.rows(0, stop)).astype(np.float64)
        share = before.shape[0] / stop
        error += share * float(np.square(np.asarray(after.rows(0, stop)).astype(np.float64) - whole).sum())
        norm += share * float(np.square(whole).sum())
        kind = after.scheme.name if isinstance(after, Packed) else after.dtype.name
        sizes[kind] = sizes.get(kind, 0) + before.shape[0] * before.shape[1]
    main, lost = max(sizes, key=lambda each: sizes[each]), max(EXACT, error / norm if norm else 0.0)
    if activations.told(scheme):
        return Traits(lost + IN_STEPS, f"{main}, static")
    return Traits(lost, f"{main}, solved" if solved else main)


def beside(model: Model) -> int:
    """Bytes, more or less, that a format's files have beside weights and tokenizer: graphs, the receipt."""
    return 65_536 + 16 * model.spec.vocab


@dataclass(frozen=True)
class Effect:
    """One random effect: candidates of the same group share it, each by its weight (1 by default)."""

    spread: float
    groups: Sequence[Hashable]
    weights: Array | None = None


class Forecast:
    """The joint distribution of one figure over all candidates."""

    def __init__(self, mean: Sequence[float] | Array, effects: Sequence[Effect], noise: float) -> None:
        """mean: predictions on the scale on which effects add up. noise: spread of a measurement around the truth."""
        self._mean, self._noise = np.asarray(mean, np.float64), noise
        self._covariance = np.zeros((self._mean.size, self._mean.size))
        for effect in effects:
            codes = {group: number for number, group in enumerate(dict.fromkeys(effect.groups))}
            ids = np.array([codes[group] for group in effect.groups])
            weights = np.ones(ids.size) if effect.weights is None else effect.weights
            self._covariance += effect.spread**2 * np.outer(weights, weights) * (ids[:, None] == ids[None, :])

    def given(self, seen: Sequence[int], values: Sequence[float] | Array) -> tuple[Array, Array]:
        """Mean and covariance of all candidates, once those at the places `seen` were measured. (2.23, 2.24)"""
        if not len(seen):
            return self._mean, self._covariance
        at = np.asarray(seen)
        between = self._covariance[:, at]
        gain = np.linalg.solve(self._covariance[np.ix_(at, at)] + self._noise**2 * np.eye(at.size), between.T).T
        mean = self._mean + gain @ (np.asarray(values, np.float64) - self._mean[at])
        return mean, self._covariance - gain @ between.T

    def draw(self, seen: Sequence[int], values: Sequence[float] | Array, normal: Array) -> Array:
        """Samples [draws, candidates] from standard normal numbers of that shape; what was measured stays as measured."""
        mean, covariance = self.given(seen, values)
        scales, axes = np.linalg.eigh(covariance)
        drawn: Array = mean + normal @ (axes * np.sqrt(np.maximum(scales, 0))).T
        if len(seen):
            drawn[:, np.asarray(seen)] = np.asarray(values, np.float64)
        return drawn
