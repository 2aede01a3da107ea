"""Codes whose groups follow another order than the columns: GPTQ with act-order. No other format has a word for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import Array, Floats
from slmops.quantize._affine import Affine, unpacked


@dataclass(frozen=True, eq=False)
class Ordered:
    """Column k belongs to group order[k]. `Codes` as those of `inner`: codes by column, scales and zeros by group."""

    inner: Affine
    order: Array
    """int64 [columns]"""

    @property
    def name(self) -> str:
        return f"{self.inner.name}-actorder"

    @property
    def bits(self) -> int:
        return self.inner.bits

    @property
    def group(self) -> int:
        return self.inner.group

    @property
    def zero(self) -> int | None:
        return self.inner.zero

    @property
    def dense(self) -> np.dtype[Any] | None:
        return None

    @property
    def makes(self) -> bool:
        return False

    def quantize(self, values: Array) -> Codes:
        raise Unsupported(f"{self.name} can be read but not made", "quantize to q4, q8 or q4a instead")

    def dequantize(self, codes: Codes) -> Floats:
        """f32 [rows, columns], exactly scale * (code - zero)."""
        values = unpacked(codes.codes, self.bits, len(self.order)).astype(np.float32)
        zeros = np.float32(self.zero or 0) if codes.zeros is None else codes.zeros.astype(np.float32)[:, self.order]
        result: Floats = (values - zeros) * codes.scales[:, self.order]
        return result

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return self.inner.nbytes(shape) + 4 * shape[1]
