"""Matrices that a file holds transposed, [input, output]: some outputs of all inputs."""

from __future__ import annotations

import os

import numpy as np

from slmops.core.errors import CorruptInput
from slmops.core.tensor import Array, Stored

SHORT = 16 << 10
"""Bytes of a row below which the whole matrix is read sooner than a piece of each row."""


def columns(stored: Stored, start: int, stop: int) -> Array:
    """Columns start..stop of a matrix in a file, [rows, stop - start]. Thread-safe."""
    rows, width = stored.shape
    size = stored.dtype.itemsize
    if width * size < SHORT or (start, stop) == (0, width):
        return stored.rows(0, rows)[:, start:stop]
    result = np.empty((rows, stop - start), stored.dtype)
    with stored.path.open("rb", buffering=0) as file:
        for row in range(rows):
            file.seek(stored.offset + (row * width + start) * size, os.SEEK_SET)
            if file.readinto(memoryview(result[row]).cast("B")) != (stop - start) * size:
                raise CorruptInput(
                    f"{stored.path.name} ends before the tensor at byte {stored.offset} does", "download it again"
                )
    return result
