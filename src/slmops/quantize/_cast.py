"""The one cast between float dtypes: finite numbers stay finite, or an error says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.tensor import Array

SMALL = 1 << 16
"""Elements below which numpy's own cast is done before numba would be imported."""


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """`values` in `dtype`, rounded to nearest even. Raises Unsupported where a finite number would become infinite."""
    if values.dtype == dtype:
        return values
    if dtype == np.float16 and values.size >= SMALL and values.dtype.name in ("float32", "bfloat16"):
        return _halve(values)
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype == np.float16 and (np.isinf(result) & np.isfinite(values)).any():
        raise _too_large()
    return result


def _halve(values: Array) -> Array:
    """numpy's cast to f16 goes number by number; this one is vectorised and gives the same bits."""
    from slmops.quantize import _kernels

    flat = np.ascontiguousarray(values).reshape(-1)
    bits, shift = (flat.view(np.uint16), 16) if values.dtype.name == "bfloat16" else (flat.view(np.uint32), 0)
    result = np.empty(flat.shape, np.uint16)
    if _kernels.halve(bits, np.uint32(shift), result):
        raise _too_large()
    return result.view(np.float16).reshape(values.shape)


def _too_large() -> Unsupported:
    return Unsupported("a weight is too large for f16 (65504)", "use --quantize bf16 or f32 for this model")


def check_finite(values: Array, what: str, first: int) -> None:
    """Raises CorruptInput naming the first row that holds NaN or infinity. `values` is a block of rows, from `first` on."""
    # A sum meets every NaN and infinity; only a bad sum pays for the search.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(values, dtype=np.float32)):
            return
    bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        row = first + int(np.argwhere(bad)[0][0])
        raise CorruptInput(f"{what}: row {row} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
