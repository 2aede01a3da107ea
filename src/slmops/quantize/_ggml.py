"""Block types of ggml that are kept as they are: bytes in, numbers out. Source: ggml-quants.c (dequantize_row_*).

A super-block holds 256 elements of a row; its small scales are themselves codes under one f16 scale, so no plain
(scale, zero) pair stands for them in 16 bits. They move between GGUF files byte for byte, and become numbers elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize._cast import check_finite


@dataclass(frozen=True)
class Blocks:
    """A ggml type as a scheme. Its `Codes` hold the rows' own bytes and no scales."""

    name: str
    kind: str
    """ggml's name of the type."""
    bits: int
    group: int
    """Elements of a block."""
    block: int
    """Bytes of a block."""
    expand: Callable[[Bytes], Floats]
    """[blocks, bytes of a block] -> f32 [blocks, elements]."""
    make: Callable[[Array], Bytes] | None = None
    """[rows, columns] of f32, f16 or bf16 -> [blocks, bytes of a block]; None where the type is not made here."""
    halves: tuple[int, ...] = ()
    """Where in a block its f16 scales stand."""

    @property
    def dense(self) -> np.dtype[Any] | None:
        return None

    @property
    def zero(self) -> int | None:
        return None

    @property
    def makes(self) -> bool:
        return self.make is not None

    def quantize(self, values: Array) -> Codes:
        """[rows, columns] of f32, f16 or bf16 -> codes; columns must divide by the block. Raises CorruptInput on NaN."""
        rows = len(values)
        if self.make is None:
            raise Unsupported(f"{self.kind} can be read but not made", "iq4_xs, q3_k_m and q2_k are the smallest that can")
        try:
            blocks = self.make(values)
        except CorruptInput:
            check_finite(values, self.kind, 0)  # names the row
            raise
        return Codes(blocks.reshape(rows, -1), np.empty((rows, 0), np.float32))

    def dequantize(self, codes: Codes) -> Floats:
        """f32 [rows, columns]. Raises CorruptInput where a scale is no number."""
        rows = codes.codes.shape[0]
        values = self.expand(np.ascontiguousarray(codes.codes).reshape(-1, self.block))
        if not np.isfinite(values).all():
            raise CorruptInput(f"a {self.kind} block has a scale that is no number", "download the file again")
        return values.reshape(rows, -1)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) // self.group * self.block


def f16(blocks: Bytes, at: int) -> Floats:
    """The f16 at this byte of every block, as f32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def fields(values: Bytes, width: int, count: int) -> Bytes:
    """[n, bytes] -> [n, count, bytes]: the `count` fields of `width` bits of every byte, lowest first."""
    shifts = np.arange(count, dtype=np.uint8) * np.uint8(width)
    found: Bytes = values[:, None, :] >> shifts[None, :, None] & np.uint8((1 << width) - 1)
    return found


def scales_and_mins(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes of Q4_K and Q5_K -> eight 6-bit scales and eight 6-bit minima (get_scale_min_k4)."""
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (mixed & 15) | first >> 6 << 4], axis=1)
    mins = np.concatenate([second & 63, mixed >> 4 | second >> 6 << 4], axis=1)
    return scales, mins


def with_scales(codes: Array, scales: Array, mins: Array | None = None) -> Floats:
    """Codes [n, 256], scales and mins [n, groups] -> f32 [n, 256]: scale * code - min."""
    groups = scales.shape[1]
    values = codes.reshape(len(codes), groups, -1).astype(np.float32) * scales[:, :, None].astype(np.float32)
    if mins is not None:
        values -= mins[:, :, None]
    return values.reshape(len(codes), -1).astype(np.float32)


CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""kvalues_iq4nl: the sixteen values of IQ4_NL and IQ4_XS."""


_MIDDLES = (CODEBOOK[:-1].astype(np.float32) + CODEBOOK[1:].astype(np.float32)) / 2


def by_codebook(x: Floats, groups: int) -> tuple[Floats, Bytes]:
    """Scales f32 [blocks, groups] (rounded to f16 where there is but one) and codes of the nearest values."""
    from slmops.quantize import _ggml_kernels as kernels
    from slmops.quantize._ggml_make import checked, rounded

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
