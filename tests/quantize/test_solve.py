"""Solvers on fixed grids: each step lowers the loss, nothing leaves the grid, and small cases are near the best there is."""

from __future__ import annotations

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest

from slmops.core import scheme
from slmops.core.tensor import Floats
from slmops.quantize import _solve, _solve_kernels
from slmops.quantize._affine import Affine, parse, unpacked

SCHEMES = ("q4", "q8", "q4a", "int4-g64-zero-f16", "int3-g32-f16")


def named(name: str) -> Affine:
    found = parse(name) or scheme.load(name)
    assert isinstance(found, Affine)
    return found


def layer(rows: int = 48, columns: int = 256, seed: int = 0) -> tuple[Floats, Floats]:
    """Weights, and second moments of inputs that hang together, as activations do."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((600, 40)) @ random.standard_normal((40, columns)) * random.lognormal(0, 1, columns)
    inputs += 0.1 * random.standard_normal(inputs.shape)
    weights = (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)
    return weights, (inputs.T @ inputs / len(inputs)).astype(np.float32)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_step_lowers_the_loss(name: str) -> None:
    chosen, (weights, moments) = named(name), layer()
    prepared = _solve.prepare(moments)
    rounded = chosen.quantize(weights)
    losses = [_solve.loss(chosen, rounded, weights, prepared.moments)]
    for rounds in (0, 1, 3):
        losses.append(_solve.loss(chosen, _solve.solve(chosen, weights, prepared, rounds), weights, prepared.moments))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", SCHEMES)
def test_nothing_leaves_the_grid(name: str) -> None:
    chosen, (weights, moments) = named(name), layer()
    found, plain = _solve.solve(chosen, weights, _solve.prepare(moments)), chosen.quantize(weights)
    codes = unpacked(found.codes, chosen.bits, weights.shape[1])
    assert codes.max() < 1 << chosen.bits and found.codes.shape == plain.codes.shape
    assert np.array_equal(found.scales.astype(np.float16).astype(np.float32), found.scales)
    if chosen.significand <= 8:
        assert np.array_equal(found.scales.astype(ml_dtypes.bfloat16).astype(np.float32), found.scales)
    if plain.zeros is not None:
        assert found.zeros is not None and np.array_equal(found.zeros, plain.zeros)


def test_rows_do_not_hang_on_each_other() -> None:
    """A block of rows is solved as it is among all: files are made of blocks, and every run must cut alike."""
    chosen, (weights, moments) = named("q4"), layer()
    prepared = _solve.prepare(moments)
    whole, part = _solve.solve(chosen, weights, prepared), _solve.solve(chosen, weights[16:32], prepared)
    assert np.array_equal(whole.scales[16:32], part.scales) and np.array_equal(whole.codes[16:32], part.codes)


def test_with_moments_that_are_the_identity_rounding_is_the_best() -> None:
    """Columns that do not hang together have nothing to feed back: codes are those of the nearest value."""
    chosen, (weights, _) = named("q4"), layer()
    prepared = _solve.prepare(np.eye(256, dtype=np.float32), damping=0.0)
    steps = chosen.quantize(weights).scales
    codes = np.empty(weights.shape, np.uint8)
    _solve.feed_back(weights, steps, np.full(steps.shape, np.float32(8)), prepared, 32, 4, codes)
    nearest = np.rint(weights.reshape(48, 8, 32) / steps[:, :, None] + 8).clip(0, 15).reshape(weights.shape)
    assert np.array_equal(codes, nearest.astype(np.uint8))


def test_near_the_best_of_all_codes() -> None:
    """Five columns of 3 bits: all 32,768 choices against what descent finds, on the very same steps."""
    random = np.random.default_rng(3)
    for _ in range(6):
        a = random.standard_normal((3, 5))
        moments = (a.T @ a + 0.05 * np.eye(5)).astype(np.float32)
        weights = random.standard_normal((1, 5)).astype(np.float32)
        steps, zeros = np.full((1, 1), np.float32(0.35)), np.full((1, 1), np.float32(4))
        codes = np.rint(weights / 0.35 + 4).clip(0, 7).astype(np.uint8)
        start = (codes.astype(np.float32) - 4) * np.float32(0.35) - weights
        gradient = start @ moments
        _solve_kernels.descend(codes, steps, zeros, moments, gradient, 5, np.float32(7), 20)
        every = (np.array(list(itertools.product(range(8), repeat=5)), np.float32) - 4) * np.float32(0.35) - weights
        best = np.einsum("ij,jk,ik->i", every, moments, every).min()
        made = (codes.astype(np.float32) - 4) * np.float32(0.35) - weights
        found = float((made @ moments @ made.T)[0, 0])
        assert best <= found * 1.0001 and found <= float((start @ moments @ start.T)[0, 0]) + 1e-6
        assert np.allclose(gradient, made @ moments, atol=1e-4)


@pytest.mark.parametrize(("bits", "dtype"), [(8, ml_dtypes.bfloat16), (11, np.float16), (24, np.float32)])
def test_rounding_to_significant_bits(bits: int, dtype: type) -> None:
    values = (np.random.default_rng(0).standard_normal(2000) * 0.01).astype(np.float32)
    found = np.array([_solve_kernels.to_significand(value, bits) for value in values])
    normal = np.abs(values) > 2.0**-14
    assert np.array_equal(found[normal], values[normal].astype(dtype).astype(np.float32))


def test_a_layer_that_saw_nothing_is_still_solved() -> None:
    chosen, (weights, _) = named("q4"), layer()
    found = _solve.solve(chosen, weights, _solve.prepare(np.zeros((256, 256), np.float32)))
    assert np.isfinite(chosen.dequantize(found)).all()
    empty = dataclasses.replace(found, codes=found.codes[:0], scales=found.scales[:0])
    assert _solve.loss(chosen, empty, weights[:0], np.eye(256, dtype=np.float32)) == 0
