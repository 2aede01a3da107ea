"""Dense schemes: plain casts, no codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slmops.core.errors import Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import DTYPES, Array, Floats, elements


@dataclass(frozen=True)
class Dense:
    """A plain dtype: f32, f16 or bf16."""

    name: str
    bits: int
    group: int = 1
    zero: int | None = None

    @property
    def dense(self) -> np.dtype[Any] | None:
        return DTYPES[self.name]

    @property
    def makes(self) -> bool:
        return True

    def quantize(self, values: Array) -> Codes:
        raise Unsupported(f"{self.name} has no codes")

    def dequantize(self, codes: Codes) -> Floats:
        raise Unsupported(f"{self.name} has no codes")

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return elements(shape) * self.bits // 8
