"""Tensors that are never wholly in memory: shape, dtype and size are free to ask, rows are read when wanted.

The one primitive is `rows(start, stop)`; everything else goes over it block by block. Three kinds: `Stored` (bytes in a
file), `Lazy` (a function of others), `Packed` (codes and scales of a scheme, see core/scheme.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slmops.core.errors import CorruptInput

Array = NDArray[Any]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}

BLOCK_ELEMENTS = 4 << 20
"""Elements of a block: 8 MB of bfloat16, 16 MB as f32. Small enough that memory does not follow the model's size."""


class Tensor(Protocol):
    """What every kind of tensor answers. `dtype` is what `rows` returns."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def rows(self, start: int, stop: int) -> Array:
        """Rows start..stop along the first axis, in `dtype`. Thread-safe."""
        ...


def elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def row_blocks(shape: tuple[int, ...], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cut the first axis into blocks of about BLOCK_ELEMENTS whose starts are multiples of `multiple`.

    A pure function of its arguments: digests and files are made of these blocks, so every run cuts alike.
    """
    step = BLOCK_ELEMENTS // max(1, elements(shape[1:]))
    step = max(multiple, step // multiple * multiple)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def to_numpy(tensor: Tensor) -> Floats:
    """The whole tensor as f32. For small tensors and toy models only."""
    return np.asarray(tensor.rows(0, tensor.shape[0])).astype(np.float32)


@dataclass(frozen=True)
class Stored:
    """A contiguous row-major tensor in a file. Read with plain reads: a mapped file would count as resident memory."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, start: int, stop: int) -> Array:
        width = elements(self.shape[1:])
        count = (stop - start) * width
        values = np.fromfile(self.path, self.dtype, count, offset=self.offset + start * width * self.dtype.itemsize)
        if values.size != count:
            raise CorruptInput(f"{self.path.name} ends before the tensor at byte {self.offset} does", "download it again")
        return values.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True)
class Lazy:
    """A tensor computed from others, row block by row block, when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    function: Callable[[int, int], Array]

    def rows(self, start: int, stop: int) -> Array:
        return self.function(start, stop)


def shifted(tensor: Tensor, offset: float) -> Tensor:
    """The tensor's numbers as f32, plus `offset`."""

    def rows(start: int, stop: int) -> Array:
        values: Array = tensor.rows(start, stop).astype(np.float32) + np.float32(offset)
        return values

    return Lazy(tensor.shape, DTYPES["f32"], rows) if offset else tensor


@dataclass(frozen=True)
class Constant:
    """A small tensor that is already in memory."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def rows(self, start: int, stop: int) -> Array:
        return self.values[start:stop]
