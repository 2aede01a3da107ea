"""w8a8: 8-bit weights with one scale a row, so that an engine may multiply them by activations of 8 bits as whole numbers.

Symmetric around 128 (codes 1 to 255); the scale is the row's greatest magnitude over 127, rounded to 8 significant bits.
It is kept for each 32 elements, all alike: where a format has no such products, the codes are held as q8's are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.scheme import Codes
from slmops.core.tensor import DTYPES, Array
from slmops.quantize._affine import Affine
from slmops.quantize._cast import cast

LEAST = 2.0**-24
"""The smallest step between numbers of 16 bits, which every scale is a multiple of."""


@dataclass(frozen=True)
class ByRow(Affine):
    """An affine scheme whose groups of one row share one scale."""

    def quantize(self, values: Array) -> Codes:
        numbers = cast(values, DTYPES["f32"])
        most = np.abs(numbers).max(axis=1, keepdims=True, initial=0.0)
        if not np.isfinite(most).all():
            row = int(np.flatnonzero(~np.isfinite(most[:, 0]))[0])
            raise CorruptInput(f"row {row} holds NaN or infinity", "the checkpoint is broken: fetch or train it again")
        wanted = most.astype(np.float64) / 127
        step = np.maximum(2.0 ** (np.frexp(wanted)[1] - self.significand), LEAST)
        scales = (np.rint(wanted / step) * step).astype(np.float32)
        if scales.max(initial=0.0) > 65504:
            raise Unsupported("weights are too large for a 16-bit scale", "use --quantize bf16 or f32 for this model")
        codes = np.rint(numbers / np.where(scales > 0, scales, 1)).clip(-127, 127) + 128
        return Codes(codes.astype(np.uint8), np.repeat(scales, values.shape[1] // self.group, axis=1))

    @property
    def solves(self) -> bool:
        """A solver would move each group's scale by itself."""
        return False


SCHEME = ByRow("w8a8", 8, 32, 128, 8, search=(127.0,))
