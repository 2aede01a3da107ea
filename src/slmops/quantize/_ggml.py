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
from slmops.quantize._grid import HALF, Freedom, Grid, Numbers


@dataclass(frozen=True)
class Leveled:
    """What blocks hold, apart from where: value = d * scale * (code - zero) - dmin * min, one scale (and min) a group."""

    codes: Bytes
    """[blocks, elements], from 0."""
    scales: Array
    """Whole numbers [blocks, groups]."""
    mins: Array | None
    d: Floats
    """[blocks, 1], exact in f16; dmin likewise."""
    dmin: Floats | None


@dataclass(frozen=True)
class Form:
    """How a type's blocks come apart and together, and what its numbers may be."""

    parse: Callable[[Bytes], Leveled]
    join: Callable[[Leveled], Bytes]
    zero: int = 0
    """The code that stands for 0."""
    scales: Freedom | None = None
    """None: always 1."""
    mins: Freedom | None = None
    values: Array | None = None
    """What codes stand for, where not for themselves."""

    def expand(self, blocks: Bytes) -> Floats:
        """[blocks, bytes of a block] -> f32 [blocks, elements]."""
        found = self.parse(blocks)
        codes = self.values[found.codes] if self.values is not None else found.codes.view(np.int8) - np.int8(self.zero)
        mins = None if found.mins is None or found.dmin is None else found.dmin * found.mins
        return with_scales(codes, found.d * found.scales, mins)


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
    form: Form | None = None
    """Of types whose numbers can be moved apart from their places."""

    @property
    def dense(self) -> np.dtype[Any] | None:
        return None

    @property
    def zero(self) -> int | None:
        return None

    @property
    def makes(self) -> bool:
        return self.make is not None

    @property
    def solves(self) -> bool:
        return self.makes and self.form is not None

    def grid(self, codes: Codes) -> Grid:
        """Rows' codes and scales as what a solver moves. Of types that have a `form`."""
        form, rows = self._form(), len(codes.codes)
        found = form.parse(np.ascontiguousarray(codes.codes).reshape(-1, self.block))

        def numbers(values: Array, width: int, freedom: Freedom | None) -> Numbers:
            return Numbers(np.ascontiguousarray(values, np.float32).reshape(rows, -1), width, freedom)

        group = self.group // found.scales.shape[1]
        steps = (numbers(found.d, self.group, HALF), numbers(found.scales, group, form.scales))
        leasts: tuple[Numbers, ...] = ()
        if found.mins is not None and found.dmin is not None:
            leasts = numbers(found.dmin, self.group, HALF), numbers(found.mins, group, form.mins)
        zeros = numbers(np.full(found.scales.shape, form.zero), group, None)
        levels = np.arange(1 << self.bits) if form.values is None else form.values
        return Grid(found.codes.reshape(rows, -1), levels.astype(np.float32), group, steps, leasts, zeros)

    def ungrid(self, grid: Grid) -> Codes:
        """The way back: bytes of the rows."""

        def numbers(held: Numbers, dtype: type) -> Array:
            return held.values.astype(dtype).reshape(-1, self.group // held.width)

        rows, (d, scales) = len(grid.codes), grid.steps
        mins = dmin = None
        if grid.leasts:
            dmin, mins = numbers(grid.leasts[0], np.float32), numbers(grid.leasts[1], np.uint8)
        codes = grid.codes.reshape(-1, self.group)
        found = Leveled(codes, numbers(scales, np.int16), mins, numbers(d, np.float32), dmin)
        return Codes(self._form().join(found).reshape(rows, -1), np.empty((rows, 0), np.float32))

    def _form(self) -> Form:
        if self.form is None:
            raise Unsupported(f"{self.kind} can be read and passed on, but its codes cannot be moved one by one")
        return self.form

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
        return values.reshape(rows, codes.codes.shape[1] // self.block * self.group)

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
    blocks, groups = scales.shape
    apart = codes.reshape(blocks, groups, codes.shape[1] // groups)
    values = apart.astype(np.float32) * scales[:, :, None].astype(np.float32)
    if mins is not None:
        values -= mins[:, :, None]
    return values.reshape(codes.shape).astype(np.float32)


CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""kvalues_iq4nl: the sixteen values of IQ4_NL and IQ4_XS."""


def leveled(
    name: str, bits: int, group: int, block: int, halves: tuple[int, ...], form: Form, make: Callable[[Array], Bytes]
) -> Blocks:
    """The type of this name whose blocks of `group` elements have this form."""
    return Blocks(name, name.upper(), bits, group, block, form.expand, make, halves, form)
