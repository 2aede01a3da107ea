"""Block-affine schemes: value = scale * (code - zero), the family that every engine understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import Array, Floats


@dataclass(frozen=True)
class Affine:
    """A block-affine scheme of 4 or 8 bits. `zero` None: an integer zero point for each group."""

    name: str
    bits: int
    group: int
    zero: int | None
    significand: int
    """Significant bits of a scale: 8 fit bf16 and f16; 7 leave room for a 4-bit zero point times the scale in f16."""
    search: tuple[float, ...]
    """Proposals of the scale search, see quantize/_kernels.py."""

    @property
    def dense(self) -> np.dtype[Any] | None:
        return None

    def quantize(self, values: Array) -> Codes:
        """[rows, columns] of f32, f16 or bf16 -> codes; columns must divide by the group."""
        # numba takes a second to import: only who really quantizes pays for it.
        from slmops.quantize import _kernels

        rows, columns = values.shape
        bfloat16 = values.dtype.name == "bfloat16"
        bits = values.view(np.uint16) if bfloat16 else values.astype(np.float32, copy=False).view(np.uint32)
        shift = np.uint32(16 if bfloat16 else 0)
        codes = np.empty((rows, columns * self.bits // 8), np.uint8)
        scales = np.empty((rows, columns // self.group), np.float32)
        zeros = np.empty(scales.shape, np.uint8) if self.zero is None else None
        search = np.array(self.search, np.float32)
        if zeros is None:
            bad = _kernels.symmetric(self.group, self.bits)(bits, shift, self.significand, search, codes, scales)
        else:
            bad = _kernels.asymmetric4(self.group)(bits, shift, self.significand, search, codes, scales, zeros)
        if bad >= 0:
            raise CorruptInput(f"row {bad} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
        if scales.size and np.abs(scales).max() > 65504:
            raise Unsupported("weights are too large for a 16-bit scale", "use --quantize bf16 or f32 for this model")
        return Codes(codes, scales, zeros)

    def dequantize(self, codes: Codes) -> Floats:
        """f32 [rows, columns], exactly scale * (code - zero)."""
        from slmops.quantize import _kernels

        rows, groups = codes.scales.shape
        values = np.empty((rows, groups * self.group), np.float32)
        zeros = codes.zeros if codes.zeros is not None else np.empty((0, 0), np.uint8)
        kernel = _kernels.affine(self.group, self.bits)
        kernel(np.ascontiguousarray(codes.codes), codes.scales, zeros, np.float32(self.zero or 0), values)
        return values

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Codes, 16-bit scales and (4-bit) zero points."""
        rows, columns = shape
        groups = rows * columns // self.group
        return rows * columns * self.bits // 8 + groups * 2 + (groups // 2 if self.zero is None else 0)
