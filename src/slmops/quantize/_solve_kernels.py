"""Inner loops of quantize/_solve.py, compiled by numba. value = step * (level - zero) - least, one of each for a group.

The error of a row is what its values miss of the weights; `gradient` is error x moments, kept up to date by every move.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, inline="always")
def nearest(level: Any, count: Any, middles: Any) -> Any:  # pragma: no cover - compiled
    """The code whose level is nearest; levels are the whole numbers where there are no middles."""
    if middles.shape[0] == 0:
        return np.int64(min(max(np.rint(level), np.float32(0)), np.float32(count - 1)))
    code = 0
    for middle in middles:
        code += level >= middle
    return code


@numba.njit(nogil=True, cache=True, fastmath=True)
def feedback(
    w: Any, steps: Any, zeros: Any, leasts: Any, groups: Any, u: Any, levels: Any, middles: Any, codes: Any, errors: Any
) -> None:  # pragma: no cover - compiled
    """GPTQ's inner block: columns in order, each column's error spread over the later ones by the upper factor `u`."""
    rows, columns = w.shape
    for r in range(rows):
        for j in range(columns):
            g = groups[j]
            step, zero, least = steps[r, g], zeros[r, g], leasts[r, g]
            at = zero if step == 0 else (w[r, j] + least) / step + zero
            code = nearest(at, levels.shape[0], middles)
            codes[r, j] = np.uint8(code)
            error = (w[r, j] - (step * (levels[code] - zero) - least)) / u[j, j]
            errors[r, j] = error
            for i in range(j + 1, columns):
                w[r, i] -= error * u[j, i]


@numba.njit(nogil=True, cache=True, fastmath=True)
def descend(
    codes: Any, steps: Any, zeros: Any, moments: Any, gradient: Any, group: Any, levels: Any, middles: Any, passes: Any
) -> Any:  # pragma: no cover - compiled
    """Move single codes to where they lower the loss most, until none does; how many moved."""
    rows, columns = codes.shape
    total = 0
    for r in range(rows):
        for _ in range(passes):
            moved = 0
            for k in range(columns):
                step = steps[r, k // group]
                if step == 0:
                    continue
                old = codes[r, k]
                new = nearest(levels[old] - gradient[r, k] / (moments[k, k] * step), levels.shape[0], middles)
                if new != old:
                    x = (levels[new] - levels[old]) * step
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
def refit(
    numbers: Any, slopes: Any, moments: Any, gradient: Any, width: Any, low: Any, high: Any, significand: Any, passes: Any
) -> Any:  # pragma: no cover - compiled
    """Move single numbers to where they lower the loss most, rounded to what may be stored; how many moved.

    numbers [rows, columns / width]: one changes the values of `width` columns by its own change times `slopes`
    [rows, columns]. Whole numbers within low..high; with a significand, magnitudes between them.
    """
    rows, count = numbers.shape
    columns = slopes.shape[1]
    total = 0
    curves = np.empty(count, np.float32)
    for r in range(rows):
        for n in range(count):
            at, curve = n * width, np.float32(0)
            for i in range(at, at + width):
                if slopes[r, i] != 0:
                    inner = np.float32(0)
                    for j in range(at, at + width):
                        inner += moments[i, j] * slopes[r, j]
                    curve += slopes[r, i] * inner
            curves[n] = curve
        for _ in range(passes):
            moved = 0
            for n in range(count):
                at, curve, old = n * width, curves[n], numbers[r, n]
                if curve <= 0:
                    continue
                pull = np.float32(0)
                for i in range(at, at + width):
                    pull += slopes[r, i] * gradient[r, i]
                new = old - pull / curve
                if significand == 0:
                    new = min(max(np.rint(new), low), high)
                else:
                    new = to_significand(new, significand)
                    if not low <= abs(new) <= high:
                        continue
                x = new - old
                if x != 0 and pull * x + np.float32(0.5) * curve * x * x < 0:
                    numbers[r, n] = new
                    moved += 1
                    for i in range(at, at + width):
                        y = x * slopes[r, i]
                        if y != 0:
                            for j in range(columns):
                                gradient[r, j] += y * moments[i, j]
            total += moved
            if moved == 0:
                break
    return total
