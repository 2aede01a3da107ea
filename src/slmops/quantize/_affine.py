"""Block-affine schemes: value = scale * (code - zero), or scale * code + bias: the family that every engine understands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import DTYPES, Array, Bytes, Floats
from slmops.quantize._cast import cast
from slmops.quantize._grid import HALF, Freedom, Grid, Numbers


@dataclass(frozen=True)
class Affine:
    """A block-affine scheme of 1 to 8 bits. `zero` None: each group has its own integer zero point or, `biased`, a bias."""

    name: str
    bits: int
    group: int
    zero: int | None
    significand: int
    """Significant bits of a scale (and bias): 8 fit bf16, 11 f16, 24 f32; 7 leave room for a 4-bit zero point in f16."""
    search: tuple[float, ...] = ()
    """Proposals of the scale search, see quantize/_kernels.py."""
    biased: bool = False
    wide: bool = False
    """Whether scales may lie outside f16's range (2^-24 to 65504)."""

    @property
    def dense(self) -> np.dtype[Any] | None:
        return None

    @property
    def scale(self) -> np.dtype[Any]:
        """The narrowest dtype that holds every scale and bias; where f16 and bf16 both do, f16."""
        if self.significand <= 11 and not self.wide:
            return DTYPES["f16"]
        return DTYPES["bf16"] if self.significand <= 8 else DTYPES["f32"]

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Whether a dtype holds every scale and bias."""
        return dtype in (DTYPES["f32"], self.scale) or (dtype == DTYPES["bf16"] and self.significand <= 8)

    @property
    def makes(self) -> bool:
        return bool(self.search)

    def quantize(self, values: Array) -> Codes:
        """[rows, columns] of f32, f16 or bf16 -> codes; columns must divide by the group."""
        # numba takes a second to import: only who really quantizes pays for it.
        from slmops.quantize import _kernels

        rows, columns = values.shape
        bfloat16 = values.dtype.name == "bfloat16"
        bits = values.view(np.uint16) if bfloat16 else cast(values, DTYPES["f32"]).view(np.uint32)
        shift = np.uint32(16 if bfloat16 else 0)
        nibbles = self.bits == 4 and not self.biased
        codes = np.empty((rows, columns // 2 if nibbles else columns), np.uint8)
        scales = np.empty((rows, columns // self.group), np.float32)
        zeros = np.empty(scales.shape, np.uint8) if self.zero is None and not self.biased else None
        biases = np.empty(scales.shape, np.float32) if self.biased else None
        common = (bits, shift, self.significand, np.array(self.search, np.float32), codes, scales)
        if biases is not None:
            bad = _kernels.biased(self.group, self.bits)(*common, biases)
        elif zeros is not None:
            bad = _kernels.asymmetric(self.group, self.bits)(*common, zeros)
        else:
            bad = _kernels.symmetric(self.group, self.bits)(*common)
        if bad >= 0:
            raise CorruptInput(f"row {bad} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
        for numbers in (scales, biases):
            if numbers is not None and numbers.size and not self.wide and np.abs(numbers).max() > 65504:
                raise Unsupported("weights are too large for a 16-bit scale", "use --quantize bf16 or f32 for this model")
        return Codes(codes if nibbles else packed(codes, self.bits), scales, zeros, biases)

    def dequantize(self, codes: Codes) -> Floats:
        """f32 [rows, columns]: scale * (code - zero) or scale * code + bias, each operation rounded to f32."""
        from slmops.quantize import _kernels

        rows, groups = codes.scales.shape
        values = np.empty((rows, groups * self.group), np.float32)
        zeros = codes.zeros if codes.zeros is not None else np.empty((0, 0), np.uint8)
        biases = codes.biases if codes.biases is not None else np.empty((0, 0), np.float32)
        kernel = _kernels.affine(self.group, self.bits)
        packed = np.ascontiguousarray(codes.codes)
        kernel(packed, codes.scales, zeros, np.float32(self.zero or 0), np.ascontiguousarray(biases), values)
        return values

    @property
    def solves(self) -> bool:
        return self.makes

    def grid(self, codes: Codes) -> Grid:
        """Rows' codes, scales, and zeros or biases, as what a solver moves."""
        columns, whole = codes.scales.shape[1] * self.group, Freedom(0, (1 << self.bits) - 1)
        real = Freedom(2.0**-126, float(np.finfo(np.float32).max), self.significand) if self.wide else HALF
        real = Freedom(real.low, real.high, self.significand)
        leasts = () if codes.biases is None else (Numbers(-codes.biases, self.group, real),)
        if codes.zeros is not None:
            zeros = Numbers(codes.zeros.astype(np.float32), self.group, whole)
        else:
            zeros = Numbers(np.full(codes.scales.shape, np.float32(self.zero or 0)), self.group, None)
        ones = unpacked(codes.codes, self.bits, columns)
        levels = np.arange(1 << self.bits, dtype=np.float32)
        return Grid(ones, levels, self.group, (Numbers(codes.scales.copy(), self.group, real),), leasts, zeros)

    def ungrid(self, grid: Grid) -> Codes:
        """The way back."""
        zeros = None if self.zero is not None or self.biased else grid.zeros.values.astype(np.uint8)
        biases = -grid.leasts[0].values if self.biased else None
        return Codes(packed(grid.codes, self.bits), grid.steps[0].values, zeros, biases)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Codes, scales, and zero points as wide as codes or biases as wide as scales."""
        rows, columns = shape
        groups = rows * columns // self.group
        more = groups * self.scale.itemsize if self.biased else groups * self.bits // 8 if self.zero is None else 0
        return rows * columns * self.bits // 8 + groups * self.scale.itemsize + more


SIGNIFICANDS = {"f16": 11, "bf16": 8, "f32": 24}
SHRINKS = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8)
_NAME = re.compile(r"int([2-8])-g(\d{1,6})(-bias|-zero|)-(f16|bf16|f32)")


def grid(bits: int, group: int, scale: str, *, zero: int | None = None, biased: bool = False) -> Affine:
    """A scheme named by what it is: int4-g128-f16 (codes around 8), int4-g128-zero-f16, int4-g64-bias-bf16.

    scale: the dtype of scales and biases, f16, bf16 or f32.
    """
    middle = 1 << (bits - 1)
    form = "-bias" if biased else "-zero" if zero is None else "" if zero == middle else f"-around{zero}"
    # Around the middle, a scale may have either sign: the longer negative side serves the largest magnitude.
    search = (-float(middle), -middle + 0.6, middle - 1.0, middle - 0.4) if zero == middle and not biased else SHRINKS
    name = f"int{bits}-g{group}{form}-{scale}"
    return Affine(name, bits, group, zero, SIGNIFICANDS[scale], search, biased, wide=scale != "f16")


def parse(name: str) -> Affine | None:
    """The scheme of such a name, if it is one."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[2]) not in (16, 32, 64, 128, 256):
        return None
    bits, group, form, scale = int(found[1]), int(found[2]), found[3], found[4]
    return grid(bits, group, scale, zero=None if form else 1 << (bits - 1), biased=form == "-bias")


def unpacked(codes: Bytes, bits: int, columns: int) -> Bytes:
    """Dense codes [rows, columns * bits / 8] -> one a byte [rows, columns]."""
    from slmops.quantize import _kernels

    values = np.empty((codes.shape[0], columns), np.uint8)
    _kernels.unpack(bits)(np.ascontiguousarray(codes), values)
    return values


def packed(values: Bytes, bits: int) -> Bytes:
    """One code a byte [rows, columns] -> dense [rows, columns * bits / 8]."""
    from slmops.quantize import _kernels

    if bits == 8:
        return values
    codes = np.zeros((values.shape[0], values.shape[1] * bits // 8), np.uint8)
    _kernels.pack(bits)(np.ascontiguousarray(values), codes)
    return codes
