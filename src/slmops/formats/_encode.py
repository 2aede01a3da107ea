"""Encoders shared by the formats: a block of a tensor in, its bytes for the file out. All pure and thread-safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slmops.core.layout import Block
from slmops.core.scheme import Codes
from slmops.core.tensor import Array
from slmops.quantize._cast import cast

Encoder = Callable[[Block], Array]


def dense(dtype: np.dtype[Any]) -> Encoder:
    """Plain numbers, cast to `dtype`. Raises Unsupported where a finite number would become infinite."""

    def encode(block: Block) -> Array:
        assert not isinstance(block, Codes)
        return cast(block, dtype)

    return encode


def codes(block: Block) -> Array:
    """The canonical codes: packed little-endian along the row, element 0 in the low bits."""
    assert isinstance(block, Codes)
    return block.codes


def scales(dtype: np.dtype[Any]) -> Encoder:
    """Scales [rows, groups] in `dtype`; the scheme promises that they are exact in it."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes)
        return cast(block.scales, dtype)

    return encode


def biases(dtype: np.dtype[Any], zero: int | None) -> Encoder:
    """-zero * scale [rows, groups] in `dtype`: the additive form that MLX and GGUF's _1 types keep."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes)
        factor = block.zeros.astype(np.float32) if block.zeros is not None else np.float32(zero or 0)
        return cast(block.scales * -factor, dtype)

    return encode


def zeros4(block: Block) -> Array:
    """Zero points as packed nibbles [rows, ceil(groups / 2)], low nibble first."""
    assert isinstance(block, Codes) and block.zeros is not None
    zeros = block.zeros
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, ((0, 0), (0, 1)))
    return zeros[:, 0::2] | zeros[:, 1::2] << 4
