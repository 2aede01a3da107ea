"""Encoders shared by the formats: a block of a tensor in, its bytes for the file out. All pure and thread-safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slmops.core.layout import Block
from slmops.core.scheme import Codes, Scheme
from slmops.core.tensor import DTYPES, Array
from slmops.quantize._affine import Affine
from slmops.quantize._cast import cast

Encoder = Callable[[Block], Array]


def dense(dtype: np.dtype[Any]) -> Encoder:
    """Plain numbers, cast to `dtype`. Raises Unsupported where a finite number would become infinite."""

    def encode(block: Block) -> Array:
        assert not isinstance(block, Codes)
        return cast(block, dtype)

    return encode


def shifted(offset: float) -> Encoder:
    """A vector in f32, plus `offset`: norm weights as they multiply."""
    plain = dense(np.dtype(np.float32))

    def encode(block: Block) -> Array:
        return plain(block) + np.float32(offset) if offset else plain(block)

    return encode


def codes(block: Block) -> Array:
    """The canonical codes: packed little-endian along the row, element 0 in the low bits."""
    assert isinstance(block, Codes)
    return block.codes


def plain(scheme: Scheme) -> np.dtype[Any]:
    """The narrowest dtype that holds every number of a scheme as its `dequantize` gives it."""
    if not isinstance(scheme, Affine) or scheme.biased:
        return DTYPES["f32"]
    width = scheme.significand + scheme.bits - (scheme.zero == 1 << (scheme.bits - 1))
    return DTYPES["f16"] if width <= 11 and not scheme.wide else DTYPES["f32"]


def signed4(block: Block) -> Array:
    """Codes around 8 as two's complement nibbles: code - 8 differs from the code in its top bit alone."""
    assert isinstance(block, Codes)
    return block.codes ^ np.uint8(0x88)


def signed8(block: Block) -> Array:
    """Codes around 128 as signed bytes."""
    assert isinstance(block, Codes)
    return block.codes ^ np.uint8(0x80)


def numbers(scheme: Scheme, dtype: np.dtype[Any]) -> Encoder:
    """The numbers that codes stand for, in `dtype`."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes)
        return cast(scheme.dequantize(block), dtype)

    return encode


def scales(dtype: np.dtype[Any]) -> Encoder:
    """Scales [rows, groups] in `dtype`; the scheme promises that they are exact in it."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes)
        return cast(block.scales, dtype)

    return encode


def first_scales(block: Block) -> Array:
    """The scale of each row, f32 [rows], where all groups of a row have one."""
    assert isinstance(block, Codes)
    return block.scales[:, 0]


def biases(dtype: np.dtype[Any]) -> Encoder:
    """Biases [rows, groups] in `dtype`, which the scheme promises to hold them."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes) and block.biases is not None
        return cast(block.biases, dtype)

    return encode


def zeros(bits: int, *, padded: bool) -> Encoder:
    """Zero points as wide as codes, the first in the low bits: 4 bits or 8. `padded`: every row starts on a byte."""

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes) and block.zeros is not None
        if bits == 8:
            return block.zeros
        found = block.zeros if padded else np.ravel(block.zeros)[None]
        if found.shape[1] % 2:
            found = np.pad(found, ((0, 0), (0, 1)))
        return found[:, 0::2] | found[:, 1::2] << 4

    return encode
