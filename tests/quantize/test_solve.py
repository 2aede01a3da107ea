"""Solvers on fixed grids: each step lowers the loss, nothing leaves the grid, and small cases are near the best there is."""

from __future__ import annotations

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from slmops.core import scheme
from slmops.core.scheme import Codes
from slmops.core.tensor import Floats
from slmops.quantize import _solve
from slmops.quantize._affine import Affine, parse, unpacked
from slmops.quantize._grid import Freedom, Grid, Numbers

AFFINE = ("q4", "q8", "q4a", "q4_1", "int4-g64-zero-f16", "int3-g32-f16", "int4-g64-bias-bf16", "int2-g32-bias-f16")
BLOCKS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")


def named(name: str) -> _solve.Solvable:
    found = _solve.solvable(parse(name) or scheme.load(name))
    assert found is not None
    return found


def layer(rows: int = 48, columns: int = 256, seed: int = 0) -> tuple[Floats, Floats]:
    """Weights, and second moments of inputs that hang together, as activations do."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((600, 40)) @ random.standard_normal((40, columns)) * random.lognormal(0, 1, columns)
    inputs += 0.1 * random.standard_normal(inputs.shape)
    weights = (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)
    return weights, (inputs.T @ inputs / len(inputs)).astype(np.float32)


def plain(codes: Floats, step: float, zero: float, most: int, weights: Floats) -> Grid:
    """A grid of one group whose step and zero stay."""
    columns, shape = weights.shape[1], (len(weights), 1)
    return Grid(
        codes=codes.astype(np.uint8),
        levels=np.arange(most + 1, dtype=np.float32),
        group=columns,
        steps=(Numbers(np.full(shape, np.float32(step)), columns, None),),
        leasts=(),
        zeros=Numbers(np.full(shape, np.float32(zero)), columns, None),
    )


@pytest.mark.parametrize("name", AFFINE + BLOCKS)
@pytest.mark.slow
def test_every_step_lowers_the_loss(name: str) -> None:
    chosen, (weights, moments) = named(name), layer()
    prepared = _solve.prepare(moments)
    rounded = chosen.quantize(weights)
    losses = [_solve.loss(chosen.dequantize(rounded) - weights, prepared.moments)]
    for rounds in (0, 1, 3):
        solved = chosen.dequantize(_solve.solve(chosen, weights, prepared, rounds))
        losses.append(_solve.loss(solved - weights, prepared.moments))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", AFFINE)
def test_nothing_leaves_the_grid(name: str) -> None:
    chosen, (weights, moments) = named(name), layer()
    assert isinstance(chosen, Affine)
    found, rounded = _solve.solve(chosen, weights, _solve.prepare(moments)), chosen.quantize(weights)
    codes = unpacked(found.codes, chosen.bits, weights.shape[1])
    assert codes.max() < 1 << chosen.bits and found.codes.shape == rounded.codes.shape
    for numbers in (found.scales, found.biases):
        if numbers is not None and not chosen.wide:
            assert np.array_equal(numbers.astype(np.float16).astype(np.float32), numbers)
        if numbers is not None and chosen.significand <= 8:
            assert np.array_equal(numbers.astype(ml_dtypes.bfloat16).astype(np.float32), numbers)
    if rounded.zeros is not None:
        assert found.zeros is not None and found.zeros.max() < 1 << chosen.bits and found.zeros.dtype == np.uint8


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_stay_blocks(name: str) -> None:
    """What is solved is bytes again, in which gguf-py finds the very numbers."""
    chosen, (weights, moments) = named(name), layer(columns=512)
    found = _solve.solve(chosen, weights, _solve.prepare(moments))
    assert found.codes.nbytes == chosen.nbytes(weights.shape)
    assert np.array_equal(chosen.dequantize(found), quants.dequantize(found.codes, Type[name.upper()]))


@pytest.mark.parametrize("name", AFFINE + BLOCKS)
def test_a_grid_is_the_codes_and_goes_back_to_them(name: str) -> None:
    chosen, (weights, _) = named(name), layer()
    codes = chosen.quantize(weights)
    grid = chosen.grid(codes)
    assert np.allclose(grid.values(), chosen.dequantize(codes), rtol=1e-5, atol=1e-6)
    back = chosen.ungrid(grid)
    for name in ("codes", "scales", "zeros", "biases"):
        one, other = getattr(codes, name), getattr(back, name)
        assert (one is None and other is None) or np.array_equal(one, other)


@pytest.mark.parametrize("name", BLOCKS)
def test_any_bytes_of_blocks_come_apart_and_together(name: str) -> None:
    chosen, random = named(name), np.random.default_rng(0)
    blocks = random.integers(0, 256, (40, chosen.nbytes((1, 256))), np.uint8)
    held = scheme.load(name)
    for at in held.halves:  # scales that are numbers
        for start in range(at, blocks.shape[1], held.block):
            blocks[:, start : start + 2] = random.standard_normal(40).astype("<f2").view(np.uint8).reshape(-1, 2)
    back = chosen.ungrid(chosen.grid(Codes(blocks, np.empty((40, 0), np.float32))))
    assert np.array_equal(back.codes, blocks)


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
    grid = chosen.grid(chosen.quantize(weights))
    steps = grid.steps[0].values.copy()
    _solve.feed_back(grid, weights, prepared)
    nearest = np.rint(weights.reshape(48, 8, 32) / steps[:, :, None] + 8).clip(0, 15).reshape(weights.shape)
    assert np.array_equal(grid.codes, nearest.astype(np.uint8))


def test_near_the_best_of_all_codes() -> None:
    """Five columns of 3 bits: all 32,768 choices against what descent finds, on the very same steps."""
    random = np.random.default_rng(3)
    for _ in range(6):
        a = random.standard_normal((3, 5))
        moments = (a.T @ a + 0.05 * np.eye(5)).astype(np.float32)
        weights = random.standard_normal((1, 5)).astype(np.float32)
        grid = plain(np.rint(weights / 0.35 + 4).clip(0, 7), 0.35, 4, 7, weights)
        start = grid.values() - weights
        _solve.improve(grid, weights, dataclasses.replace(_solve.prepare(moments), moments=moments), 0)
        every = (np.array(list(itertools.product(range(8), repeat=5)), np.float32) - 4) * np.float32(0.35) - weights
        best = np.einsum("ij,jk,ik->i", every, moments, every).min()
        made = grid.values() - weights
        found = float((made @ moments @ made.T)[0, 0])
        assert best <= found * 1.0001 and found <= float((start @ moments @ start.T)[0, 0]) + 1e-6


def test_a_number_moves_to_the_least_squares_fit() -> None:
    """One step for eight columns and codes that stay: numpy's own least squares, rounded as f16 rounds."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((50, 8)).astype(np.float32)
    weights = random.standard_normal((1, 8)).astype(np.float32)
    moments = inputs.T @ inputs
    grid = plain(np.rint(weights * 4 + 8).clip(0, 15), 0.3, 8, 15, weights)
    free = dataclasses.replace(grid.steps[0], freedom=Freedom(2.0**-14, 65504, 11))
    grid = dataclasses.replace(grid, steps=(free,))
    ((numbers, slopes),) = grid.slopes()
    gradient = (grid.values() - weights) @ moments
    _solve.refit(numbers, slopes, moments, gradient)
    expected = np.linalg.lstsq(inputs @ slopes.T, inputs @ weights.T, rcond=None)[0]
    assert numbers.values[0, 0] == np.float16(expected[0, 0])
    assert np.allclose(gradient, (grid.values() - weights) @ moments, atol=1e-4)


@pytest.mark.parametrize(("bits", "dtype"), [(8, ml_dtypes.bfloat16), (11, np.float16), (24, np.float32)])
def test_rounding_to_significant_bits(bits: int, dtype: type) -> None:
    values = (np.random.default_rng(0).standard_normal(2000) * 0.01).astype(np.float32)
    found = Freedom(0, 1e9, bits).nearest(values, values)
    normal = np.abs(values) > 2.0**-14
    assert np.array_equal(found[normal], values[normal].astype(dtype).astype(np.float32))


@pytest.mark.parametrize("name", ["q4", "q4_k", "iq4_xs"])
def test_a_layer_that_saw_nothing_is_still_solved(name: str) -> None:
    chosen, (weights, _) = named(name), layer()
    weights[3] = 0
    found = _solve.solve(chosen, weights, _solve.prepare(np.zeros((256, 256), np.float32)))
    values = chosen.dequantize(found)
    assert np.isfinite(values).all() and not values[3].any()
    empty = dataclasses.replace(found, codes=found.codes[:0], scales=found.scales[:0])
    assert chosen.dequantize(empty).shape == (0, 256)
