"""The fast cast to f16 against numpy's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from slmops.core.errors import CorruptInput, Unsupported
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
