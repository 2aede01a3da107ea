"""Numbers into ggml's super-blocks: the two levels of scales, and where bits lie. Source: ggml-quants.c."""

from __future__ import annotations

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize._ggml import CODEBOOK, Leveled

SUPER = 256
_MIDDLES = (CODEBOOK[:-1].astype(np.float32) + CODEBOOK[1:].astype(np.float32)) / 2


def cut(values: Array, size: int = SUPER) -> Floats:
    """[rows, columns] of any float -> f32 [blocks, size]."""
    return np.ascontiguousarray(values, np.float32).reshape(-1, size)


def checked(bad: int) -> None:
    """Raise for the block that a kernel found not to be finite; the caller knows its row."""
    if bad >= 0:
        raise CorruptInput(f"block {bad} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")


def with_minima(x: Floats, group: int, top: int, levels: int, search: tuple[float, float, int], absolute: bool) -> Leveled:
    """value = d * scale * code - dmin * min. levels: the largest code of a scale. search: first, step, count."""
    from slmops.quantize import _ggml_kernels as kernels

    scales = np.empty((len(x), SUPER // group), np.float32)
    mins = np.empty_like(scales)
    first, step, count = search
    checked(kernels.minima(group, top, absolute)(x, np.float32(first), np.float32(step), count, scales, mins))
    d, small = _level(scales, levels)
    dmin, least = _level(mins, levels)
    codes = np.empty(x.shape, np.uint8)
    kernels.round_to(group, 0, top)(x, d * small.astype(np.float32), dmin * least.astype(np.float32), codes)
    return Leveled(codes, small, least, d, dmin)


def _level(values: Floats, levels: int) -> tuple[Floats, Bytes]:
    """One f16 factor a block, as f32 [blocks, 1], and codes 0..levels of values that are not negative."""
    most = np.maximum(values.max(axis=1, keepdims=True), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        small = np.where(most > 0, np.minimum(np.rint(values * (np.float32(levels) / most)), levels), 0)
    return rounded(most / np.float32(levels)), np.maximum(small, 0).astype(np.uint8)


def rounded(values: Floats) -> Floats:
    """f32 that f16 holds; Unsupported beyond its range."""
    with np.errstate(over="ignore"):
        found: Floats = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(found).all():
        raise Unsupported("weights are too large for a 16-bit scale", "use --quantize bf16 or f32 for this model")
    return found


def half(values: Floats) -> Bytes:
    """f32 [blocks, 1] -> the bytes of f16 [blocks, 2]."""
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(-1, 2)


def with_signs(x: Floats, group: int, reach: int, levels: int, *, power: int, tries: int) -> Leveled:
    """value = d * scale * code with codes -reach .. reach - 1 and scales -levels .. levels - 1, codes stored from 0.

    power, tries: of the search, see _ggml_kernels.signed.
    """
    from slmops.quantize import _ggml_kernels as kernels

    scales = np.empty((len(x), SUPER // group), np.float32)
    checked(kernels.signed(group, reach, tries)(x, power, scales))
    d, small = signed_level(scales, levels)
    codes = np.empty(x.shape, np.uint8)
    kernels.round_to(group, -reach, reach - 1)(x, d * small.astype(np.float32), np.zeros_like(scales), codes)
    return Leveled(codes, small, None, d, None)


def signed_level(values: Floats, levels: int) -> tuple[Floats, Array]:
    """One f16 factor a block that puts the largest magnitude on -levels, f32 [blocks, 1]; codes int16 [blocks, groups]."""
    at = np.abs(values).argmax(axis=1)[:, None]
    peak = np.take_along_axis(values, at, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(peak == 0, np.float32(0), -np.float32(levels) / peak)
    small = np.clip(np.rint(values * inverse), -levels, levels - 1).astype(np.int16)
    return rounded(peak / np.float32(-levels)), small


def planes(codes: Array, width: int, count: int, run: int) -> Bytes:
    """[blocks, n * count * run] -> [blocks, n * run]: field k of a byte is `width` bits of the k-th run. ggml's way."""
    parts = codes.reshape(len(codes), -1, count, run)
    result = parts[:, :, 0].astype(np.uint8)
    for place in range(1, count):
        result |= parts[:, :, place].astype(np.uint8) << np.uint8(width * place)
    return result.reshape(len(codes), -1)


def halves(found: Leveled) -> list[Bytes]:
    """The bytes of d, and of dmin where there is one: [blocks, 2] each."""
    return [half(one) for one in (found.d, found.dmin) if one is not None]


def scales_and_mins(found: Leveled) -> Bytes:
    """Eight 6-bit scales and minima as the 12 bytes of Q4_K and Q5_K."""
    scales, mins = found.scales.astype(np.uint8), np.asarray(found.mins, np.uint8)
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = mins[:, :4] | mins[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4], axis=1)


def by_codebook(x: Floats, groups: int) -> tuple[Floats, Bytes]:
    """Scales f32 [blocks, groups] (rounded to f16 where there is but one) and codes of the nearest values."""
    from slmops.quantize import _ggml_kernels as kernels

    scales = np.empty((len(x), groups), np.float32)
    checked(kernels.codebook(7)(x, CODEBOOK.astype(np.float32), _MIDDLES, scales))
    if groups == 1:
        scales = rounded(scales)
    return scales, nearest(x, scales)


def nearest(x: Floats, scales: Floats) -> Bytes:
    """Codes of the codebook's nearest values under these scales, one a byte."""
    from slmops.quantize import _ggml_kernels as kernels

    codes = np.empty(x.shape, np.uint8)
    kernels.nearest(x, np.ascontiguousarray(scales), _MIDDLES, codes)
    return codes
