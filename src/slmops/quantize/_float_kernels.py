"""Loops over the bits of floats, compiled by numba: casts, and what a scale may be. numpy converts f16 number by number."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MAGNITUDE = np.uint32(0x7FFFFFFF)


@numba.njit(nogil=True, cache=True)
def halve(values: Any, shift: Any, halves: Any) -> Any:  # pragma: no cover - compiled
    """Bits of f32 (or its high 16) -> bits of f16, rounded to nearest even; True when a finite number became infinite.

    Fabian Giesen, "Float->half variants" (public domain), float_to_half_fast3_rtne.
    """
    work = np.empty(1, np.uint32)
    real = work.view(np.float32)
    overflow: Any = False
    for i in range(values.shape[0]):
        u = np.uint32(np.uint32(values[i]) << shift)
        f = np.uint32(u & np.uint32(0x7FFFFFFF))
        if f >= np.uint32(0x47800000):
            half = np.uint32(0x7E00) if f > np.uint32(0x7F800000) else np.uint32(0x7C00)
            overflow |= f < np.uint32(0x7F800000)
        elif f < np.uint32(0x38800000):
            work[0] = f
            real[0] += np.float32(0.5)  # the addition itself rounds to f16's smallest step
            half = np.uint32(work[0] - np.uint32(0x3F000000))
        else:
            odd = np.uint32(np.uint32(f >> np.uint32(13)) & np.uint32(1))
            half = np.uint32(np.uint32(f + np.uint32(0xC8000FFF) + odd) >> np.uint32(13))
            overflow |= half == np.uint32(0x7C00)
        halves[i] = np.uint16(half | np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(0x8000)))
    return overflow


@numba.njit(nogil=True, cache=True)
def widen(halves: Any, values: Any) -> None:  # pragma: no cover - compiled
    """Bits of f16 -> f32. A product with 2^112 moves the exponent, of numbers below f16's normal range too."""
    bits = values.view(np.uint32)
    for i in range(halves.shape[0]):
        h = np.uint32(halves[i])
        bits[i] = np.uint32(h & np.uint32(0x7FFF)) << np.uint32(13)
    for i in range(halves.shape[0]):
        values[i] *= np.float32(2.0**112)
    for i in range(halves.shape[0]):
        h = np.uint32(halves[i])
        special = np.uint32(0x7F800000) if h & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
        bits[i] |= special | np.uint32(h & np.uint32(0x8000)) << np.uint32(16)


@numba.njit(nogil=True, cache=True)
def finite(bits: Any, exponent: Any) -> bool:  # pragma: no cover - compiled
    """Whether no number has an exponent of ones: NaN and infinity have."""
    found = False
    for i in range(bits.shape[0]):
        found |= (bits[i] & exponent) == exponent
    return not found


@numba.njit(nogil=True, cache=True)
def exact(values: Any, significand: Any, half: Any) -> bool:  # pragma: no cover - compiled
    """Whether every finite f32 has at most so many significant bits and, if `half`, lies where f16 holds it: below 2^16
    and a multiple of 2^-24."""
    bits = values.view(np.uint32)
    fits = True
    for i in range(bits.shape[0]):
        magnitude = bits[i] & MAGNITUDE
        exponent = np.int32(magnitude >> np.uint32(23))
        mantissa = (magnitude & np.uint32(0x7FFFFF)) | (np.uint32(0x800000) if exponent else np.uint32(0))
        dropped = np.int32(24 - significand)
        if half:
            dropped = max(dropped, np.int32(126) - exponent)
            fits &= magnitude < np.uint32(0x47800000)
        dropped = min(dropped, np.int32(24))
        fits &= (mantissa & np.uint32((np.uint32(1) << np.uint32(dropped)) - np.uint32(1))) == 0
    return fits


@numba.njit(nogil=True, cache=True)
def zero_points(scales: Any, biases: Any, most: Any, zeros: Any) -> bool:  # pragma: no cover - compiled
    """zeros: the whole z in 0 .. most with bias = -scale * z; False where there is none. Zero takes zero."""
    fits = True
    for i in range(scales.shape[0]):
        scale, bias = np.float64(scales[i]), np.float64(biases[i])
        point = np.rint(-bias / scale) if scale != 0 else np.float64(0)
        inside = 0 <= point <= most
        fits &= inside and point * -scale == bias
        zeros[i] = np.uint8(point) if inside else np.uint8(0)
    return fits


@numba.njit(nogil=True, cache=True)
def products(scales: Any, zeros: Any, zero: Any, biases: Any) -> bool:  # pragma: no cover - compiled
    """biases: -scale * z in f32, z each group's own or the one `zero` (zeros is then empty); False where f32 rounds one."""
    fits = True
    for i in range(scales.shape[0]):
        point = np.float64(zeros[i]) if zeros.shape[0] else zero
        product = np.float64(scales[i]) * -point
        biases[i] = np.float32(product)
        fits &= np.float64(biases[i]) == product
    return fits
