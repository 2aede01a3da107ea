"""How numbers become codes: the Scheme protocol, the block of codes, and the packed tensor."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from slmops.core import plugins
from slmops.core.spec import Spec
from slmops.core.tensor import Array, Bytes, Floats, Tensor


@dataclass(frozen=True)
class Codes:
    """Some rows of a block-affine tensor: value = scale * (code - zero), or scale * code + bias; one scale (and zero, or
    bias) a group of the last axis.

    The canonical form, the same for every format:
    codes   uint8 [rows, columns * bits / 8]: unsigned codes packed little-endian along the row, element 0 in the low bits
    scales  f32 [rows, groups]: exact in the scheme's own scale type
    zeros   uint8 [rows, groups], or None where the scheme's zero is a constant or a bias stands in its place
    biases  f32 [rows, groups], or None where a zero point says it
    """

    codes: Bytes
    scales: Floats
    zeros: Bytes | None = None
    biases: Floats | None = None

    def digest(self, of_codes: int | None = None) -> int:
        """CRC-32 of the canonical bytes: tells whether two files hold the same numbers (not against an adversary).

        of_codes: the CRC-32 of the codes alone, where it is known: they are nearly all of the bytes.
        """
        value = zlib.crc32(np.ascontiguousarray(self.codes)) if of_codes is None else of_codes
        # -0.0 and 0.0 scale alike: some containers cannot tell them apart.
        value = zlib.crc32(np.ascontiguousarray(self.scales + np.float32(0)).view(np.uint8), value)
        if self.biases is not None:
            value = zlib.crc32(np.ascontiguousarray(self.biases + np.float32(0)).view(np.uint8), value)
        return zlib.crc32(np.ascontiguousarray(self.zeros), value) if self.zeros is not None else value

    def cut(self, rows: Array | slice) -> Codes:
        """Some of the rows."""
        return Codes(**{name: array[rows] for name, array in vars(self).items() if array is not None})


def joined(parts: Sequence[Codes]) -> Codes:
    """Blocks of rows, one below the other."""
    names = [name for name, array in vars(parts[0]).items() if array is not None]
    return Codes(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in names})


class Scheme(Protocol):
    """A way to store numbers. Frozen, without state. `dense` schemes are plain casts and have no codes."""

    @property
    def name(self) -> str: ...

    @property
    def bits(self) -> int:
        """Bits of one code (of one number where dense)."""
        ...

    @property
    def dense(self) -> np.dtype[Any] | None:
        """The plain dtype of a dense scheme; None where numbers become codes."""
        ...

    @property
    def group(self) -> int:
        """Elements along the last axis that share a scale; 1 where dense."""
        ...

    @property
    def zero(self) -> int | None:
        """The constant code that means 0.0; None where each group has its own (or where dense)."""
        ...

    @property
    def makes(self) -> bool:
        """Whether numbers can become codes of it; False where codes are only read and passed on."""
        ...

    def quantize(self, values: Array) -> Codes:
        """[rows, columns] of f32, f16 or bf16 -> codes. `columns` is a multiple of `group`. Raises CorruptInput on NaN."""
        ...

    def dequantize(self, codes: Codes) -> Floats:
        """Codes -> f32 [rows, columns], exactly scale * (code - zero)."""
        ...

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of codes, scales and zeros of a tensor of this shape."""
        ...


Chooser = Callable[[str, Spec, tuple[int, ...]], Scheme]
"""(role, spec, shape) -> the scheme of that matrix."""


def load(name: str) -> Scheme:
    """The scheme of this name; each is a file in slmops/quantize."""
    scheme: Scheme = plugins.load("quantize", name).SCHEME
    return scheme


@dataclass(frozen=True)
class Packed:
    """A tensor held as codes of a scheme. `blocks` gives codes; `rows` the f32 numbers that they stand for.

    Where the codes come from is the maker's business: computed from a float tensor (passes/quantize.py), or parsed
    from a file (formats/*.py).
    """

    shape: tuple[int, ...]
    scheme: Scheme
    block: Callable[[int, int], Codes]
    parameters: Callable[[int, int], Codes] | None = None
    """The same, where the codes may be left out; None where codes are computed, not read, so that looking is not cheap."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def rows(self, start: int, stop: int) -> Array:
        return self.scheme.dequantize(self.block(start, stop))


def stored_as(tensor: Tensor) -> str:
    """Name of what the tensor is stored as: a scheme's name, or f32, f16, bf16."""
    if isinstance(tensor, Packed):
        return tensor.scheme.name
    return {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(tensor.dtype.name, tensor.dtype.name)
