"""The one cast between float dtypes, by which finite numbers stay finite; and the check that they are finite."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.tensor import Array

_EXPONENTS: dict[str, tuple[type[np.uint16 | np.uint32], int]] = {
    "float32": (np.uint32, 0x7F800000), "float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80),
}  # fmt: skip
SMALL = 1 << 16
"""Elements below which numpy's own cast is done before numba would be imported."""


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """`values` in `dtype`, rounded to nearest even. Raises Unsupported where a finite number would become infinite."""
    if values.dtype == dtype:
        return values
    if dtype == np.float32 and values.dtype == np.float16 and values.size >= SMALL:
        return _widen(values)
    if dtype == np.float16 and values.size >= SMALL and values.dtype.name in ("float32", "bfloat16"):
        return _halve(values)
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype == np.float16 and (np.isinf(result) & np.isfinite(values)).any():
        raise _too_large()
    return result


def _halve(values: Array) -> Array:
    """numpy's cast to f16 goes number by number; this one is vectorised and gives the same bits."""
    from slmops.quantize import _float_kernels

    flat = np.ascontiguousarray(values).reshape(-1)
    bits, shift = (flat.view(np.uint16), 16) if values.dtype.name == "bfloat16" else (flat.view(np.uint32), 0)
    result = np.empty(flat.shape, np.uint16)
    if _float_kernels.halve(bits, np.uint32(shift), result):
        raise _too_large()
    return result.view(np.float16).reshape(values.shape)


def _widen(values: Array) -> Array:
    from slmops.quantize import _float_kernels

    flat = np.ascontiguousarray(values).reshape(-1)
    result = np.empty(flat.shape, np.float32)
    _float_kernels.widen(flat.view(np.uint16), result)
    return result.reshape(values.shape)


def warm_up() -> None:
    """Load numba's kernels, half a second, in a thread beside what waits for something else (reading a tokenizer)."""

    def load() -> None:
        from slmops.quantize import _float_kernels

        _float_kernels.finite(np.zeros(1, np.uint32), np.uint32(1))

    threading.Thread(target=load, name="kernels", daemon=True).start()


def _too_large() -> Unsupported:
    return Unsupported("a weight is too large for f16 (65504)", "use --quantize bf16 or f32 for this model")


def _finite(values: Array) -> bool:
    if values.size < SMALL:
        return bool(np.isfinite(values.astype(np.float32)).all())
    from slmops.quantize import _float_kernels

    unsigned, exponent = _EXPONENTS[values.dtype.name]
    return bool(_float_kernels.finite(np.ascontiguousarray(values).reshape(-1).view(unsigned), unsigned(exponent)))


def check_finite(values: Array, what: str, first: int) -> None:
    """Raises CorruptInput naming the first row that holds NaN or infinity. `values` is a block of rows, from `first` on."""
    if _finite(values):
        return
    bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        row = first + int(np.argwhere(bad)[0][0])
        raise CorruptInput(f"{what}: row {row} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
