"""Matrices that a file holds transposed, [input, output]: some outputs of all inputs."""

from __future__ import annotations

import functools
import io
import os

import numpy as np

from slmops.core.errors import CorruptInput
from slmops.core.tensor import Array, Stored
from slmops.quantize._cast import SMALL

SHORT = 16 << 10
"""Bytes of a row below which the whole matrix is read sooner than a piece of each row."""


def columns(stored: Stored, start: int, stop: int) -> Array:
    """Columns start..stop of a matrix in a file, [rows, stop - start]. Thread-safe."""
    rows, width = stored.shape
    size = stored.dtype.itemsize
    if width * size < SHORT or (start, stop) == (0, width):
        return stored.rows(0, rows)[:, start:stop]
    result = np.empty((rows, stop - start), stored.dtype)
    flat, step, at = memoryview(result.reshape(-1).view(np.uint8)), (stop - start) * size, stored.offset + start * size
    with stored.path.open("rb", buffering=0) as file:
        read = functools.partial(os.preadv, file.fileno()) if hasattr(os, "preadv") else functools.partial(_read, file)
        for row in range(rows):
            if read([flat[row * step : (row + 1) * step]], at + row * width * size) != step:
                raise CorruptInput(
                    f"{stored.path.name} ends before the tensor at byte {stored.offset} does", "download it again"
                )
    return result


def turned(stored: Stored, start: int, stop: int) -> Array:
    """The same columns as rows, [stop - start, rows]."""
    return turn(columns(stored, start, stop))


def turn(values: Array) -> Array:
    """[m, n] -> [n, m], contiguous."""
    if values.size < SMALL:
        return np.ascontiguousarray(values.T)
    from slmops.quantize import _kernels

    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32}[values.itemsize]
    result = np.empty(values.shape[::-1], bits)
    _kernels.transpose(values.view(bits), result)
    return result.view(values.dtype)


def _read(file: io.FileIO, into: list[memoryview], offset: int) -> int:
    """os.preadv where the system has none."""
    file.seek(offset)
    return file.readinto(into[0]) or 0
