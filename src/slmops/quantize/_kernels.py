"""The loops over weights, compiled by numba: round-to-nearest with a search for each group's scale.

Kernels release the GIL and touch only their arguments, so that blocks run in threads. Weights come as the bits of f32
(uint32, shift 0) or as its 16 high bits (bfloat16 as uint16, shift 16), [rows, columns], columns a multiple of the group.
Group and bits are closure constants: LLVM unrolls and vectorises loops whose length it knows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Sums may be reordered (so that they vectorise); NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}
ONE, THIRTY_ONE = np.uint32(1), np.uint32(31)
INFINITE = np.uint32(0xFF000000)
"""The rotated bits of infinity: what is not below is infinite or NaN."""
SIDE = 8
"""Of the squares that `transpose` moves: as many as LLVM keeps in registers."""


@numba.njit(nogil=True, cache=True)
def round_significand(value: Any, bits: Any, cast_f: Any, cast_u: Any) -> Any:  # pragma: no cover - compiled
    """The nearest number of `bits` significant bits that f16 and bf16 both hold; f16's smallest step is 2^-24."""
    if bits >= 24:
        return value
    if abs(value) < np.float32(2.0 ** (bits - 25)):
        return np.float32(np.rint(value * np.float32(2.0**24)) * np.float32(2.0**-24))
    drop = np.uint32(24 - bits)
    cast_f[0] = value
    u = cast_u[0]
    u += (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + ((u >> drop) & np.uint32(1))
    cast_u[0] = (u >> drop) << drop
    return cast_f[0]


@numba.njit(nogil=True, cache=True)
def coarse_scale(x: Any, scale: Any, least: Any, most: Any) -> Any:  # pragma: no cover - compiled
    """Of f16's two numbers around a scale so small that its steps of 2^-24 are wide, the one with the less squared error:
    the nearest may lie below by a half and clip every large value of the group."""
    step = np.float32(2.0**-24) if scale > 0 else np.float32(-(2.0**-24))
    below = np.floor(scale / step) * step
    best_error, best = np.float32(np.inf), below
    for candidate in (below, below + step):
        inverse = np.float32(0) if candidate == 0 else np.float32(1) / candidate
        error = np.float32(0)
        for j in range(x.shape[0]):
            away = x[j] - min(max(np.rint(x[j] * inverse), least), most) * candidate
            error += away * away
        if error < best_error:
            best_error, best = error, candidate
    return best


@numba.njit(nogil=True, cache=True, inline="always")
def load(values: Any, row: Any, at: Any, shift: Any, group: Any, x_bits: Any) -> Any:  # pragma: no cover - compiled
    """One group as bits of f32; its key. A rotation puts the sign below the magnitude, so the largest key is the largest
    magnitude, sign included. Inlined where `group` is a constant, and so vectorised."""
    key = np.uint32(0)
    for j in range(group):
        b = np.uint32(np.uint32(values[row, at + j]) << shift)
        x_bits[j] = b
        key = max(key, np.uint32(np.uint32(b << ONE) | np.uint32(b >> THIRTY_ONE)))
    return key


@numba.njit(nogil=True, cache=True, inline="always")
def store(q: Any, pairs: Any, bits: Any, group: Any, codes: Any, row: Any, at: Any) -> None:  # pragma: no cover - compiled
    """One group's codes: two in a byte for 4 bits, else one a byte. `pairs` is `q` two by two."""
    if bits != 4:
        for j in range(group):
            codes[row, at + j] = q[j]
    else:
        for j in range(group // 2):
            codes[row, at // 2 + j] = np.uint8((pairs[j] & 15) | (pairs[j] >> 4))


@functools.cache
def symmetric(group: int, bits: int) -> Callable[..., int]:
    """kernel(values, shift, significand, ratios, codes, scales) -> first row that holds NaN or infinity, or -1.

    Codes lie around 2^(bits-1). Each ratio r proposes the scale that puts the group's largest magnitude on code r (r < 0
    flips the sign, so that the longer negative side serves it); the one whose codes explain most of the group's energy,
    sum(xq)^2 / sum(qq), wins (llama.cpp, ggml-quants.c: make_qx_quants). Its least-squares scale is rounded to
    `significand` bits, and the codes are rounded once more with that very scale.
    codes: uint8 [rows, columns / 2] for 4 bits, else one a byte [rows, columns]; scales: f32 [rows, columns / group].
    """
    half = 1 << (bits - 1)
    least = np.float32(-half if bits < 8 else 1 - half)
    most = np.float32(half - 1)

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(
        values: Any, shift: Any, significand: Any, ratios: Any, codes: Any, scales: Any
    ) -> int:  # pragma: no cover - compiled
        x_bits = np.empty(group, np.uint32)
        x = x_bits.view(np.float32)
        q = np.empty(group, np.uint8)
        pairs = q.view(np.uint16)
        cast_f = np.empty(1, np.float32)
        cast_u = cast_f.view(np.uint32)
        coarse = np.float32(2.0 ** (significand - 25))
        for row in range(values.shape[0]):
            for g in range(scales.shape[1]):
                at = g * group
                key = load(values, row, at, shift, group, x_bits)
                if key >= INFINITE:
                    return row
                cast_u[0] = np.uint32(key >> ONE) | np.uint32(key << THIRTY_ONE)
                peak = cast_f[0]
                scale = np.float32(0)
                if peak != 0:
                    best_score = np.float32(-1)
                    for k in range(ratios.shape[0]):
                        inverse = ratios[k] / peak
                        sum_xq, sum_qq = np.float32(0), np.float32(0)
                        for j in range(group):
                            v = min(max(np.rint(x[j] * inverse), least), most)
                            sum_xq += x[j] * v
                            sum_qq += v * v
                        if sum_xq * sum_xq > best_score * sum_qq:
                            best_score = sum_xq * sum_xq / sum_qq
                            scale = sum_xq / sum_qq
                    if abs(scale) < coarse:
                        scale = coarse_scale(x, scale, least, most)
                    else:
                        scale = round_significand(scale, significand, cast_f, cast_u)
                inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
                scales[row, g] = scale
                for j in range(group):
                    v = min(max(np.rint(x[j] * inverse), least), most)
                    q[j] = np.uint8(np.int32(v) + half)
                store(q, pairs, bits, group, codes, row, at)
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def asymmetric(group: int, bits: int) -> Callable[..., int]:
    """kernel(values, shift, significand, shrinks, codes, scales, zeros) -> first row that holds NaN or infinity, or -1.

    Codes with an integer zero point a group. Each shrink proposes a range (high - low) * shrink, which always holds
    0; its scale is rounded first, then tried with the two nearest zero points; the least squared error wins. Codes as above.
    """
    top_code = (1 << bits) - 1

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(
        values: Any, shift: Any, significand: Any, shrinks: Any, codes: Any, scales: Any, zeros: Any
    ) -> int:  # pragma: no cover - compiled
        x_bits = np.empty(group, np.uint32)
        x = x_bits.view(np.float32)
        q = np.empty(group, np.uint8)
        pairs = q.view(np.uint16)
        cast_f = np.empty(1, np.float32)
        cast_u = cast_f.view(np.uint32)
        most = np.float32(top_code)
        for row in range(values.shape[0]):
            for g in range(scales.shape[1]):
                at = g * group
                key = load(values, row, at, shift, group, x_bits)
                if key >= INFINITE:
                    return row
                low, high = np.float32(0), np.float32(0)
                for j in range(group):
                    low = x[j] if x[j] < low else low
                    high = x[j] if x[j] > high else high
                best_error = np.float32(np.inf)
                best_scale, best_zero = np.float32(0), np.float32(0)
                for k in range(shrinks.shape[0]):
                    scale = round_significand((high - low) * shrinks[k] / most, significand, cast_f, cast_u)
                    if scale == 0:
                        continue
                    inverse = np.float32(1) / scale
                    first = np.floor(-low * shrinks[k] * inverse)
                    for step in range(2):
                        zero = min(max(first + np.float32(step), np.float32(0)), most)
                        top = most - zero
                        error = np.float32(0)
                        for j in range(group):
                            v = min(max(np.rint(x[j] * inverse), -zero), top)
                            d = x[j] - v * scale
                            error += d * d
                        if error < best_error:
                            best_error, best_scale, best_zero = error, scale, zero
                inverse = np.float32(0) if best_scale == 0 else np.float32(1) / best_scale
                scales[row, g] = best_scale
                zeros[row, g] = np.uint8(np.int32(best_zero))
                for j in range(group):
                    v = min(max(np.rint(x[j] * inverse) + best_zero, np.float32(0)), most)
                    q[j] = np.uint8(np.int32(v))
                store(q, pairs, bits, group, codes, row, at)
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def biased(group: int, bits: int) -> Callable[..., int]:
    """kernel(values, shift, significand, shrinks, codes, scales, biases) -> first row that holds NaN or infinity, or -1.

    value = scale * code + bias. Each shrink spreads the codes over so much of the group's range, scale and bias are refitted
    by least squares, rounded to `significand` bits, and the least squared error wins. Codes one a byte [rows, columns].
    """
    top = (1 << bits) - 1

    @numba.njit(nogil=True, cache=True, fastmath=FAST)
    def kernel(
        values: Any, shift: Any, significand: Any, shrinks: Any, codes: Any, scales: Any, biases: Any
    ) -> int:  # pragma: no cover - compiled
        x_bits = np.empty(group, np.uint32)
        x = x_bits.view(np.float32)
        q = np.empty(group, np.float32)
        cast_f = np.empty(1, np.float32)
        cast_u = cast_f.view(np.uint32)
        zero, most, count = np.float32(0), np.float32(top), np.float32(group)
        for row in range(values.shape[0]):
            for g in range(scales.shape[1]):
                at = g * group
                key = load(values, row, at, shift, group, x_bits)
                if key >= INFINITE:
                    return row
                low, high, sum_x = x[0], x[0], zero
                for j in range(group):
                    low, high = min(low, x[j]), max(high, x[j])
                    sum_x += x[j]
                best_error = np.float32(np.inf)
                # A group of one value needs no codes.
                best_scale, best_bias = zero, round_significand(low, significand, cast_f, cast_u)
                if high > low:
                    for k in range(shrinks.shape[0]):
                        inverse = most * shrinks[k] / (high - low)
                        middle = (high + low) / np.float32(2)
                        sum_q, sum_qq, sum_xq = zero, zero, zero
                        for j in range(group):
                            code = min(max(np.rint((x[j] - middle) * inverse + most / np.float32(2)), zero), most)
                            sum_q += code
                            sum_qq += code * code
                            sum_xq += code * x[j]
                        determinant = count * sum_qq - sum_q * sum_q
                        if determinant <= zero:
                            continue
                        scale = (count * sum_xq - sum_q * sum_x) / determinant
                        scale = round_significand(scale, significand, cast_f, cast_u)
                        bias = round_significand((sum_x - scale * sum_q) / count, significand, cast_f, cast_u)
                        if scale == zero:
                            continue
                        inverse = np.float32(1) / scale
                        error = zero
                        for j in range(group):
                            code = min(max(np.rint((x[j] - bias) * inverse), zero), most)
                            away = code * scale + bias - x[j]
                            error += away * away
                        if error < best_error:
                            best_error, best_scale, best_bias = error, scale, bias
                inverse = zero if best_scale == zero else np.float32(1) / best_scale
                scales[row, g], biases[row, g] = best_scale, best_bias
                for j in range(group):
                    q[j] = min(max(np.rint((x[j] - best_bias) * inverse), zero), most)
                for j in range(group):
                    codes[row, at + j] = np.uint8(np.int32(q[j]))
        return -1

    return kernel  # type: ignore[no-any-return]


@functools.cache
def affine(group: int, bits: int) -> Callable[..., None]:
    """kernel(codes, scales, zeros, zero, biases, values): scale * (code - zero), or scale * code + bias, into f32.

    `zeros` uint8 [rows, groups] where each group has its own, [0, 0] where all share `zero`; `biases` f32 [rows, groups]
    where they stand instead of zeros, else [0, 0]. values: f32 [rows, columns].
    """
    mask = np.uint32((1 << bits) - 1)

    @numba.njit(nogil=True, cache=True)
    def kernel(
        codes: Any, scales: Any, zeros: Any, zero: Any, biases: Any, values: Any
    ) -> None:  # pragma: no cover - compiled
        for row in range(scales.shape[0]):
            for g in range(scales.shape[1]):
                scale = scales[row, g]
                offset = np.float32(zeros[row, g]) if zeros.shape[0] else zero
                at = g * group
                if bits == 8:
                    for j in range(group):
                        values[row, at + j] = (np.float32(codes[row, at + j]) - offset) * scale
                elif bits == 4:
                    for j in range(group // 2):
                        pair = codes[row, at // 2 + j]
                        values[row, at + 2 * j] = (np.float32(pair & 15) - offset) * scale
                        values[row, at + 2 * j + 1] = (np.float32(pair >> 4) - offset) * scale
                else:
                    for j in range(group):
                        bit = (at + j) * bits
                        word = np.uint32(codes[row, bit >> 3])
                        if (bit & 7) + bits > 8:
                            word |= np.uint32(codes[row, (bit >> 3) + 1]) << np.uint32(8)
                        code = (word >> np.uint32(bit & 7)) & mask
                        values[row, at + j] = (np.float32(code) - offset) * scale
                if biases.shape[0]:
                    for j in range(group):
                        values[row, at + j] += biases[row, g]

    return kernel  # type: ignore[no-any-return]


@functools.cache
def unpack(bits: int) -> Callable[..., None]:
    """kernel(codes, values): dense little-endian codes [rows, columns * bits / 8] -> one a byte [rows, columns]."""
    mask = np.uint32((1 << bits) - 1)

    @numba.njit(nogil=True, cache=True)
    def kernel(codes: Any, values: Any) -> None:  # pragma: no cover - compiled
        for row in range(values.shape[0]):
            for j in range(values.shape[1]):
                bit = j * bits
                word = np.uint32(codes[row, bit >> 3])
                if (bit & 7) + bits > 8:
                    word |= np.uint32(codes[row, (bit >> 3) + 1]) << np.uint32(8)
                values[row, j] = np.uint8((word >> np.uint32(bit & 7)) & mask)

    return kernel  # type: ignore[no-any-return]


@functools.cache
def pack(bits: int) -> Callable[..., None]:
    """kernel(values, codes): the way back; every value is below 2 ** bits, the codes come as zeros."""

    @numba.njit(nogil=True, cache=True)
    def kernel(values: Any, codes: Any) -> None:  # pragma: no cover - compiled
        for row in range(values.shape[0]):
            for j in range(values.shape[1]):
                bit = j * bits
                word = np.uint32(values[row, j]) << np.uint32(bit & 7)
                codes[row, bit >> 3] |= np.uint8(word & np.uint32(255))
                if (bit & 7) + bits > 8:
                    codes[row, (bit >> 3) + 1] |= np.uint8(word >> np.uint32(8))

    return kernel  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)
def transpose(source: Any, target: Any) -> None:  # pragma: no cover - compiled
    """source [m, n] -> target [n, m], in squares: numpy goes along one of the two and misses the cache in the other."""
    for i in range(0, source.shape[0], SIDE):
        for j in range(0, source.shape[1], SIDE):
            square, turned = source[i : i + SIDE, j : j + SIDE], target[j : j + SIDE, i : i + SIDE]
            if square.shape[0] == SIDE and square.shape[1] == SIDE:
                for a in range(SIDE):
                    for b in range(SIDE):
                        turned[a, b] = square[b, a]
            else:
                for a in range(square.shape[1]):
                    for b in range(square.shape[0]):
                        turned[a, b] = square[b, a]
