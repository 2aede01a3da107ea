"""Matrices that a file holds transposed, [input, output]: some outputs of all inputs, read without the rest."""

from __future__ import annotations

import os

import numpy as np

from slmops.core.errors import CorruptInput
from slmops.core.tensor import Array, Stored


def columns(stored: Stored, start: int, stop: int) -> Array:
    """Columns start..stop of a matrix in a file, [rows, stop - start]. Thread-safe."""
    rows, width = stored.shape
    size = stored.dtype.itemsize
    result = np.empty((rows, stop - start), stored.dtype)
    with stored.path.open("rb", buffering=0) as file:
        for row in range(rows):
            file.seek(stored.offset + (row * width + start) * size, os.SEEK_SET)
            if file.readinto(memoryview(result[row]).cast("B")) != (stop - start) * size:
                raise CorruptInput(
                    f"{stored.path.name} ends before the tensor at byte {stored.offset} does", "download it again"
                )
    return result
