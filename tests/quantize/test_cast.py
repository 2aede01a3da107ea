"""The fast cast to f16 against numpy's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from slmops.core.errors import CorruptInput, Unsupported
from slmops.quantize import _float_kernels as kernels
from slmops.quantize._cast import SMALL, cast, check_finite

HALF = np.dtype(np.float16)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_same_bits_as_numpy(dtype: type) -> None:
    rng = np.random.default_rng(0)
    scales = (1e-9, 1e-8, 6e-8, 1e-7, 1e-6, 3e-5, 6.1e-5, 1e-4, 1e-2, 1.0, 300.0, 15000.0)
    values = np.concatenate([rng.standard_normal(SMALL).clip(-4, 4) * scale for scale in scales]).astype(dtype)
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    halfway = ((every[:-1].astype(np.float64) + every[1:]) / 2).astype(np.float32)
    values = np.concatenate([values, every.astype(dtype), halfway.astype(dtype), [dtype(0.0), dtype(-0.0)]]).astype(dtype)
    values = values[np.abs(values.astype(np.float32)) <= 65504]
    assert (cast(values, HALF).view(np.uint16) == values.astype(np.float16).view(np.uint16)).all()


@pytest.mark.parametrize("size", [10, SMALL])
@pytest.mark.parametrize("value", [65520.0, -70000.0, 3e38])
def test_too_large_is_refused(size: int, value: float) -> None:
    values = np.zeros(size, np.float32)
    values[3] = value
    with pytest.raises(Unsupported, match="too large"):
        cast(values, HALF)


def test_poison_is_found_by_row() -> None:
    values = np.ones((9, 7), ml_dtypes.bfloat16)
    check_finite(values, "x", 0)
    values[4, 2] = np.nan
    with pytest.raises(CorruptInput, match="x: row 4"):
        check_finite(values, "x", 0)


def test_every_half_widens_as_in_numpy() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    values = np.empty(1 << 16, np.float32)
    kernels.widen(halves, values)
    expected = halves.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(expected)
    assert (values.view(np.uint32)[numbers] == expected.view(np.uint32)[numbers]).all() and np.isnan(values[~numbers]).all()
    assert (cast(halves.view(np.float16), np.dtype(np.float32))[numbers] == expected[numbers]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, SMALL - 1, SMALL, SMALL + 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_number_that_is_none_is_found(dtype: type, count: int, bad: float) -> None:
    """On both sides of where the kernel takes over, in the first, a middle and the last place."""
    largest = float(np.finfo(np.float16).max) if dtype is np.float16 else 3e38
    values = np.full((count, 1), largest).astype(dtype)
    check_finite(values, "x", 0)
    for row in {0, count // 2, count - 1}:
        values[row] = bad
        with pytest.raises(CorruptInput, match=f"x: row {row + 7} "):
            check_finite(values, "x", 7)
        values[row] = 1


@pytest.mark.parametrize(("name", "bits", "half"), [("f16", 11, True), ("bf16", 8, False), ("f32", 24, False)])
def test_what_a_dtype_holds_exactly(name: str, bits: int, half: bool) -> None:
    """A number alone at a time, against a cast there and back: bits around each edge of f16's and bf16's range."""
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}[name]
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 32, 4000, dtype=np.uint32)
    words[::2] &= np.uint32(0xFFFFE000)  # most have too many bits else
    words[1::4] &= np.uint32(0xFFFF0000)
    edges = np.array([0, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 2.0**-14, 65504, 65520, 65536, 2.0**-126, 2.0**-133, 2.0**-149])
    values = np.concatenate([words.view(np.float32), edges.astype(np.float32), -edges.astype(np.float32)])
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        expected = values.astype(dtype).astype(np.float32) == values
    found = [kernels.exact(values[i : i + 1], np.int32(bits), half) for i in range(len(values))]
    assert 100 < expected.sum() <= len(values)
    assert [bool(one) for one in found] == expected.tolist()
