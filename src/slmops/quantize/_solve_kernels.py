"""Inner loops of quantize/_solve.py, compiled by numba. value = step * (level - zero) - least, one of each for a group.

The error of a row is what its values miss of the weights; `gradient` is error x moments, kept up to date by every move.
"""

from __future__ import annotations

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
