"""Inner loops of quantize/_solve.py, compiled by numba. value = step * (code - zero), a step and a zero a group.

`errors` are what the codes' values miss of the weights; `gradient` is errors x moments, kept up to date by every move.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath=True)
def feedback(
    w: Any, steps: Any, zeros: Any, groups: Any, u: Any, most: Any, codes: Any, errors: Any
) -> None:  # pragma: no cover - compiled
    """GPTQ's inner block: columns in order, each column's error spread over the later ones by the upper factor `u`."""
    rows, columns = w.shape
    for r in range(rows):
        for j in range(columns):
            g = groups[j]
            step, zero = steps[r, g], zeros[r, g]
            code = zero
            if step != 0:
                code = min(max(np.rint(w[r, j] / step + zero), np.float32(0)), most)
            codes[r, j] = np.uint8(code)
            error = (w[r, j] - step * (code - zero)) / u[j, j]
            errors[r, j] = error
            for i in range(j + 1, columns):
                w[r, i] -= error * u[j, i]


@numba.njit(nogil=True, cache=True, fastmath=True)
def descend(
    codes: Any, steps: Any, zeros: Any, moments: Any, gradient: Any, group: Any, most: Any, passes: Any
) -> Any:  # pragma: no cover - compiled
    """Move single codes to where they lower the loss most, until none does; how many moved."""
    rows, columns = codes.shape
    total = 0
    for r in range(rows):
        for _ in range(passes):
            moved = 0
            for k in range(columns):
                g = k // group
                step = steps[r, g]
                if step == 0:
                    continue
                old = np.float32(codes[r, k])
                new = min(max(np.rint(old - gradient[r, k] / (moments[k, k] * step)), np.float32(0)), most)
                if new != old:
                    x = (new - old) * step
                    if gradient[r, k] * x + np.float32(0.5) * moments[k, k] * x * x < 0:
                        codes[r, k] = np.uint8(new)
                        moved += 1
                        for j in range(columns):
                            gradient[r, j] += x * moments[k, j]
            total += moved
            if moved == 0:
                break
    return total


@numba.njit(nogil=True, cache=True)
def to_significand(value: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """f32 rounded to nearest, ties to even, to so many significant bits."""
    if bits >= 24 or value == 0:
        return np.float32(value)
    mantissa, exponent = math.frexp(np.float64(value))
    scale = np.float64(2.0**bits)
    return np.float32(math.ldexp(np.rint(mantissa * scale) / scale, int(exponent)))


@numba.njit(nogil=True, cache=True, fastmath=True)
def rescale(
    codes: Any, steps: Any, zeros: Any, moments: Any, gradient: Any, group: Any, significand: Any, least: Any, passes: Any
) -> Any:  # pragma: no cover - compiled
    """Move single steps to where they lower the loss most, rounded to what is stored; how many moved. Codes stay."""
    rows, count = steps.shape
    total = 0
    u = np.empty(group, np.float32)
    for r in range(rows):
        for _ in range(passes):
            moved = 0
            for g in range(count):
                at = g * group
                slope = np.float32(0)
                for i in range(group):
                    u[i] = np.float32(codes[r, at + i]) - zeros[r, g]
                    slope += u[i] * gradient[r, at + i]
                curve = np.float32(0)
                for i in range(group):
                    inner = np.float32(0)
                    for j in range(group):
                        inner += moments[at + i, at + j] * u[j]
                    curve += u[i] * inner
                if curve <= 0:
                    continue
                new = to_significand(steps[r, g] - slope / curve, significand)
                if abs(new) < least or abs(new) > np.float32(65504):
                    continue
                x = new - steps[r, g]
                if x != 0 and slope * x + np.float32(0.5) * curve * x * x < 0:
                    steps[r, g] = new
                    moved += 1
                    for i in range(group):
                        y = x * u[i]
                        if y != 0:
                            for j in range(codes.shape[1]):
                                gradient[r, j] += y * moments[at + i, j]
            total += moved
            if moved == 0:
                break
    return total
