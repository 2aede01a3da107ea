"""Better codes on the grid that a scheme already has: error feedback, then coordinate descent on codes and on scales.

What is minimised is the error of a layer's output on calibration text, sum over rows of d H d', where d is what a row's
values miss and H the second moments of the layer's input (or gradient-weighted ones): Frantar et al., GPTQ (2210.17323);
act-order there, here too: it changes only the order of work, for groups lie along the input. Codes never leave the
scheme, so what is solved is written wherever the scheme is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from slmops.core.scheme import Codes
from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize._affine import Affine, packed, unpacked

BLOCK = 64
"""Columns whose feedback is applied at once; the rest follows by one matrix product."""
DAMPING = 0.01
"""Of the mean diagonal, added to it: activations are of low rank, and the inverse must exist."""


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


def solve(scheme: Affine, values: Array, prepared: Prepared, rounds: int = 3) -> Codes:
    """[rows, columns] -> codes of the scheme, starting from its own scales."""
    first = scheme.quantize(values)
    columns = values.shape[1]
    weights = np.ascontiguousarray(values, np.float32)
    codes = unpacked(first.codes, scheme.bits, columns)
    steps, zeros = first.scales.copy(), _zeros(scheme, first)
    feed_back(weights, steps, zeros, prepared, scheme.group, scheme.bits, codes)
    return improve(scheme, first, weights, codes, steps, zeros, prepared, rounds)


def feed_back(
    weights: Floats, steps: Floats, zeros: Floats, prepared: Prepared, group: int, bits: int, codes: Bytes
) -> None:
    """GPTQ on fixed steps and zeros: fills `codes`."""
    from slmops.quantize import _solve_kernels as kernels

    columns, order = weights.shape[1], prepared.order
    left = np.ascontiguousarray(weights[:, order])
    found = np.empty(left.shape, np.uint8)
    groups, most = (order // group).astype(np.int64), np.float32((1 << bits) - 1)
    for start in range(0, columns, BLOCK):
        stop = min(columns, start + BLOCK)
        part = np.ascontiguousarray(left[:, start:stop])
        errors, made = np.empty_like(part), np.empty(part.shape, np.uint8)
        factor = np.ascontiguousarray(prepared.factor[start:stop, start:stop])
        kernels.feedback(part, steps, zeros, groups[start:stop], factor, most, made, errors)
        found[:, start:stop] = made
        left[:, stop:] -= errors @ prepared.factor[start:stop, stop:]
    codes[:, order] = found


def improve(
    scheme: Affine,
    first: Codes,
    weights: Floats,
    codes: Bytes,
    steps: Floats,
    zeros: Floats,
    prepared: Prepared,
    rounds: int,
) -> Codes:
    """Coordinate descent on codes, then on steps and codes in turn."""
    from slmops.quantize import _solve_kernels as kernels

    group, most = scheme.group, np.float32((1 << scheme.bits) - 1)
    least = np.float32(2.0**-24 if not scheme.wide else 2.0**-126)
    for number in range(rounds + 1):
        gradient = (_values(codes, steps, zeros, group) - weights) @ prepared.moments
        kernels.descend(codes, steps, zeros, prepared.moments, gradient, group, most, 8)
        if number < rounds:
            kernels.rescale(codes, steps, zeros, prepared.moments, gradient, group, scheme.significand, least, 2)
    return dataclasses.replace(first, codes=packed(codes, scheme.bits) if scheme.bits != 8 else codes, scales=steps)


def loss(scheme: Affine, codes: Codes, values: Array, moments: Floats) -> float:
    """Sum over rows of d H d': what solving lowers."""
    errors = scheme.dequantize(codes) - np.asarray(values, np.float32)
    return float(np.einsum("ij,ij->", errors @ moments, errors, dtype=np.float64))


def _zeros(scheme: Affine, codes: Codes) -> Floats:
    if codes.zeros is not None:
        return codes.zeros.astype(np.float32)
    return np.full(codes.scales.shape, np.float32(scheme.zero or 0))


def _values(codes: Bytes, steps: Floats, zeros: Floats, group: int) -> Floats:
    parts = codes.reshape(*steps.shape, group).astype(np.float32) - zeros[:, :, None]
    return np.asarray((parts * steps[:, :, None]).reshape(codes.shape), np.float32)
