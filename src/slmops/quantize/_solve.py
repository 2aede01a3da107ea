"""Better codes on the grid that a scheme already has: error feedback, then coordinate descent on codes and on scales.

What is minimised is the error of a layer's output on calibration text, sum over rows of d H d', where d is what a row's
values miss and H the second moments of the layer's input (or gradient-weighted ones): Frantar et al., GPTQ (2210.17323);
act-order there, here too: it changes only the order of work, for groups lie along the input. Codes never leave the
scheme, so what is solved is written wherever the scheme is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slmops.core.scheme import Codes, Scheme, joined
from slmops.core.tensor import Array, Floats
from slmops.quantize._affine import Affine
from slmops.quantize._ggml import Blocks
from slmops.quantize._grid import Grid, Numbers

BLOCK = 64
"""Columns whose feedback is applied at once; the rest follows by one matrix product."""
ROWS = 256
"""Solved at once: what changes with every move stays near the core."""
DAMPING = 0.05
"""Of the mean diagonal, added to it: activations are of low rank, and the inverse must exist."""
Solvable = Affine | Blocks
"""The schemes that a solver can take apart."""


def solvable(scheme: Scheme) -> Solvable | None:
    """The scheme, if its codes can be solved for."""
    return scheme if isinstance(scheme, Affine | Blocks) and scheme.solves else None


@dataclass(frozen=True)
class Prepared:
    """The moments of a layer's input, made ready for many blocks of its rows."""

    moments: Floats
    """[columns, columns], damped."""
    order: Array
    """Columns, the most important first."""
    factor: Floats
    """Upper Cholesky factor of the inverse of the ordered moments."""


def prepare(moments: Floats, damping: float = DAMPING) -> Prepared:
    """Damp, order and factor. moments: symmetric, positive semi-definite, f32 [columns, columns]."""
    damped = moments.astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping * max(float(np.mean(np.diag(damped))), 1e-12)
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return Prepared(damped.astype(np.float32), order, np.ascontiguousarray(factor.astype(np.float32)))


def solve(scheme: Solvable, values: Array, prepared: Prepared, rounds: int = 3) -> Codes:
    """[rows, columns] -> codes of the scheme, starting from its own scales."""
    parts = []
    for start in range(0, max(len(values), 1), ROWS):
        weights = np.ascontiguousarray(values[start : start + ROWS], np.float32)
        grid = scheme.grid(scheme.quantize(weights))
        feed_back(grid, weights, prepared)
        improve(grid, weights, prepared, rounds)
        parts.append(scheme.ungrid(grid))
    return joined(parts)


def feed_back(grid: Grid, weights: Floats, prepared: Prepared) -> None:
    """GPTQ under fixed steps: makes the grid's codes."""
    from slmops.quantize import _solve_kernels as kernels

    columns, order = weights.shape[1], prepared.order
    steps, zeros, leasts = grid.product(grid.steps), grid.zeros.values, grid.product(grid.leasts)
    middles = _middles(grid)
    left = np.ascontiguousarray(weights[:, order])
    found = np.empty(left.shape, np.uint8)
    groups = (order // grid.group).astype(np.int64)
    for start in range(0, columns, BLOCK):
        stop = min(columns, start + BLOCK)
        part = np.ascontiguousarray(left[:, start:stop])
        errors, made = np.empty_like(part), np.empty(part.shape, np.uint8)
        factor = np.ascontiguousarray(prepared.factor[start:stop, start:stop])
        kernels.feedback(part, steps, zeros, leasts, groups[start:stop], factor, grid.levels, middles, made, errors)
        found[:, start:stop] = made
        left[:, stop:] -= errors @ prepared.factor[start:stop, stop:]
    grid.codes[:, order] = found


def improve(grid: Grid, weights: Floats, prepared: Prepared, rounds: int) -> None:
    """Coordinate descent on codes, then on the other numbers and codes in turn."""
    from slmops.quantize import _solve_kernels as kernels

    middles = _middles(grid)
    gradient = np.asarray((grid.values() - weights) @ prepared.moments, np.float32)
    for number in range(rounds + 1):
        steps, zeros = grid.product(grid.steps), grid.zeros.values
        kernels.descend(grid.codes, steps, zeros, prepared.moments, gradient, grid.group, grid.levels, middles, 8)
        if number < rounds:
            for numbers, slopes in grid.slopes():
                refit(numbers, slopes, prepared.moments, gradient)


def refit(numbers: Numbers, slopes: Floats, moments: Floats, gradient: Floats) -> None:
    """Move each number to where it lowers the loss most, the codes and the other numbers being as they are.

    slopes: what a column's value changes by with its number, [rows, columns]. gradient: kept up to date.
    """
    width, free = numbers.width, numbers.freedom
    assert free is not None
    for place in range(numbers.values.shape[1]):
        at = slice(place * width, place * width + width)
        part = slopes[:, at]
        curve = np.einsum("ij,ij->i", part @ moments[at, at], part)
        pull = np.einsum("ij,ij->i", part, gradient[:, at])
        old = numbers.values[:, place]
        best = old - np.divide(pull, curve, out=np.zeros_like(pull), where=curve > 0)
        move = free.nearest(best, old) - old
        move[pull * move + curve * move * move / 2 >= 0] = 0
        if move.any():
            numbers.values[:, place] += move
            gradient += (move[:, None] * part) @ moments[at]


def loss(errors: Floats, moments: Floats) -> float:
    """Sum over rows of d H d': what solving lowers. errors: f32 [rows, columns]."""
    return float(np.einsum("ij,ij->", errors @ moments, errors, dtype=np.float64))


def _middles(grid: Grid) -> Floats:
    """Between neighbouring levels; none where levels are the whole numbers, and rounding finds the nearest."""
    if np.array_equal(grid.levels, np.arange(len(grid.levels), dtype=np.float32)):
        return np.empty(0, np.float32)
    return np.asarray((grid.levels[1:] + grid.levels[:-1]) / 2, np.float32)
