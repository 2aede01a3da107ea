"""Searches for the scales of ggml's super-block types, compiled by numba. They release the GIL and touch only arguments.

The proposals are llama.cpp's own (ggml-quants.c: make_qkx2_quants, make_qx_quants, quantize_row_iq4_nl_impl), so that codes
are at least as good as its; loops over a group have a length that LLVM knows, and vectorise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from slmops.quantize._kernels import FAST

SUPER = 256


@functools.cache
def minima(group: int, top: int, absolute: bool) -> Callable[..., int]:
    """kernel(x, first, step, count, scales, mins) -> first block that holds NaN or infinity, or -1.

    value = scale * code - min with codes 0..top and min >= 0, for each group of a super-block. Proposals spread the codes
    over (first + k * step + top) / range, k < count; each is refitted by weighted least squares and the least weighted
    error wins. Weights: |x| and absolute errors (`absolute`: Q2_K), or the root mean square plus |x| and squared errors.
    x: f32 [blocks, 256]; scales, mins: f32 [blocks, 256 / group].
    """

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(x: Any, first: Any, step: Any, count: Any, scales: Any, mins: Any) -> int:  # pragma: no cover - compiled
        v, w, q = np.empty(group, np.float32), np.empty(group, np.float32), np.empty(group, np.float32)
        zero, most = np.float32(0), np.float32(top)
        for block in range(x.shape[0]):
            for g in range(SUPER // group):
                at = g * group
                low, high, squares = x[block, at], x[block, at], zero
                for j in range(group):
                    value = x[block, at + j]
                    v[j] = value
                    low, high = min(low, value), max(high, value)
                    squares += value * value
                if not squares < np.float32(np.inf):
                    return block
                mean = zero if absolute else np.sqrt(squares / np.float32(group))
                sum_w, sum_x = zero, zero
                for j in range(group):
                    w[j] = mean + abs(v[j])
                    sum_w += w[j]
                    sum_x += w[j] * v[j]
                low = min(low, zero)
                if high <= low:
                    scales[block, g], mins[block, g] = zero, -low
                    continue
                scale, least = (high - low) / most, low
                best = np.float32(np.inf)
                for k in range(-1, count):
                    # The first proposal is the plain range, as it is; the others are refitted.
                    inverse = (most if k < 0 else first + step * np.float32(k) + most) / (high - low)
                    sum_l, sum_ll, sum_xl = zero, zero, zero
                    for j in range(group):
                        code = min(max(np.rint(inverse * (v[j] - low)), zero), most)
                        q[j] = code
                        sum_l += w[j] * code
                        sum_ll += w[j] * code * code
                        sum_xl += w[j] * v[j] * code
                    this_scale, this_least = (high - low) / most, low
                    if k >= 0:
                        determinant = sum_w * sum_ll - sum_l * sum_l
                        if determinant <= zero:
                            continue
                        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
                        this_least = (sum_ll * sum_x - sum_l * sum_xl) / determinant
                        if this_least > zero:
                            this_least, this_scale = zero, sum_xl / sum_ll
                    error = zero
                    for j in range(group):
                        away = this_scale * q[j] + this_least - v[j]
                        error += w[j] * (abs(away) if absolute else away * away)
                    if error < best:
                        # What wins is where the next proposals start from.
                        best, scale, least, low = error, this_scale, this_least, this_least
                scales[block, g], mins[block, g] = scale, -least
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def signed(group: int, half: int, tries: int) -> Callable[..., int]:
    """kernel(x, power, scales) -> first block that holds NaN or infinity, or -1.

    value = scale * code with codes -half .. half - 1. Proposals, `tries` below and above, put the largest magnitude within
    0.9 of -half; the one that explains most of the group's energy, weighted by its magnitudes to a `power` of 1 or 2, wins.
    x: f32 [blocks, 256]; scales: f32 [blocks, groups]. The groups of a block lie side by side in the processor's lanes.
    """
    lanes = SUPER // group

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(x: Any, power: Any, scales: Any) -> int:  # pragma: no cover - compiled
        v, w = np.empty((group, lanes), np.float32), np.empty((group, lanes), np.float32)
        peak, steps, best = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
        sum_xl, sum_ll, found = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
        zero, least, most = np.float32(0), np.float32(-half), np.float32(half - 1)
        for block in range(x.shape[0]):
            energy = zero
            peak[:] = zero
            for g in range(lanes):
                for j in range(group):
                    value = x[block, g * group + j]
                    v[j, g] = value
                    w[j, g] = abs(value) if power == 1 else value * value
                    energy += value * value
            if not energy < np.float32(np.inf):
                return block
            for j in range(group):
                for g in range(lanes):
                    peak[g] = v[j, g] if abs(v[j, g]) > abs(peak[g]) else peak[g]
            for g in range(lanes):
                steps[g] = zero if abs(peak[g]) < np.float32(1e-15) else np.float32(-1) / peak[g]
                best[g], found[g] = zero, zero
            for k in range(-tries, tries + 1):
                reach = np.float32(half) + np.float32(0.9 / tries) * np.float32(k)
                for g in range(lanes):
                    sum_xl[g], sum_ll[g] = zero, zero
                for j in range(group):
                    for g in range(lanes):
                        code = min(max(np.rint(reach * steps[g] * v[j, g]), least), most)
                        weighted = w[j, g] * code
                        sum_xl[g] += weighted * v[j, g]
                        sum_ll[g] += weighted * code
                for g in range(lanes):
                    safe = sum_ll[g] if sum_ll[g] > zero else np.float32(1)
                    scale = sum_xl[g] / safe
                    better = scale * sum_xl[g] > best[g]
                    best[g] = scale * sum_xl[g] if better else best[g]
                    found[g] = scale if better else found[g]
            for g in range(lanes):
                scales[block, g] = found[g]
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def codebook(tries: int) -> Callable[..., int]:
    """kernel(x, values, middles, scales) -> first block that holds NaN or infinity, or -1.

    value = scale * values[code] for groups of 32; proposals put the largest magnitude on the first value and `tries` whole
    numbers around it. values: f32 [16] rising; middles: f32 [15] between them.
    """
    group = 32

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(x: Any, values: Any, middles: Any, scales: Any) -> int:  # pragma: no cover - compiled
        v, w, q = np.empty(group, np.float32), np.empty(group, np.float32), np.empty(group, np.float32)
        zero = np.float32(0)
        for block in range(x.shape[0]):
            for g in range(scales.shape[1]):
                at = g * group
                low, high, squares = zero, zero, zero
                for j in range(group):
                    value = x[block, at + j]
                    v[j], w[j] = value, value * value
                    low, high = min(low, value), max(high, value)
                    squares += w[j]
                if not squares < np.float32(np.inf):
                    return block
                peak = high if high > -low else low
                if abs(peak) < np.float32(1e-15):
                    scales[block, g] = zero
                    continue
                best, scale = np.float32(-1), zero
                for k in range(-tries, tries + 2):
                    # The last proposal is the other sign, which llama.cpp leaves out.
                    inverse = (np.float32(k) + values[0]) / peak if k <= tries else -values[0] / peak
                    for j in range(group):
                        q[j] = values[0]
                    for m in range(15):
                        gap, middle = values[m + 1] - values[m], middles[m]
                        for j in range(group):
                            q[j] += gap if v[j] * inverse >= middle else zero
                    sum_xq, sum_qq = zero, zero
                    for j in range(group):
                        sum_xq += w[j] * v[j] * q[j]
                        sum_qq += w[j] * q[j] * q[j]
                    if sum_qq > zero and sum_xq * sum_xq > best * sum_qq:
                        scale = sum_xq / sum_qq
                        best = scale * sum_xq
                scales[block, g] = scale
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def round_to(group: int, least: int, most: int) -> Callable[..., None]:
    """kernel(x, scales, mins, codes): codes = round((x + min) / scale) within least..most, less `least`: uint8 [blocks, n].

    Where a scale is 0, the code is that of 0.
    """

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(x: Any, scales: Any, mins: Any, codes: Any) -> None:  # pragma: no cover - compiled
        low, high = np.float32(least), np.float32(most)
        for block in range(x.shape[0]):
            for g in range(scales.shape[1]):
                at = g * group
                scale, least_value = scales[block, g], mins[block, g]
                inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
                for j in range(group):
                    code = min(max(np.rint((x[block, at + j] + least_value) * inverse), low), high)
                    codes[block, at + j] = np.uint8(np.int32(code) - least)

    return kernel  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)
def nearest(x: Any, scales: Any, middles: Any, codes: Any) -> None:  # pragma: no cover - compiled
    """The place among rising values, cut at `middles`, that x / scale is nearest to, for groups of 32: uint8 [blocks, n]."""
    for block in range(x.shape[0]):
        for g in range(scales.shape[1]):
            scale = scales[block, g]
            inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
            for j in range(g * 32, g * 32 + 32):
                code = np.uint8(0)
                for m in range(15):
                    code += np.uint8(x[block, j] * inverse >= middles[m])
                codes[block, j] = code
