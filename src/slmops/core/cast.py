"""The one cast between float dtypes: finite numbers stay finite or an error says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.tensor import Array


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """`values` in `dtype`. Raises Unsupported where a finite number would become infinite (f16 ends at 65504)."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype == np.float16 and np.isinf(result).any():
        raise Unsupported("a weight is too large for f16 (65504)", "use --quantize bf16 or f32 for this model")
    return result


def check_finite(values: Array, where: str) -> None:
    """Raises CorruptInput naming the first row that holds NaN or infinity. `values` is a block of rows."""
    # A sum meets every NaN and infinity; only a bad sum pays for the search.
    if np.isfinite(np.sum(values, dtype=np.float32)):
        return
    bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise CorruptInput(f"{where}: row {row} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
