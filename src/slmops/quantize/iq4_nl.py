"""IQ4_NL, 18 bytes for 32: f16 d, then nibbles that name one of sixteen fixed values."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * codebook[code]; 16 low nibbles, then 16 high ones."""
    codes = _ggml.CODEBOOK[_ggml.fields(blocks[:, 2:], 4, 2).reshape(-1, 32)]
    return _ggml.with_scales(codes, _ggml.f16(blocks, 0))


def make(values: Array) -> Bytes:
    """The way back: the scale with which the codebook's values come nearest."""
    scales, codes = _ggml.by_codebook(making.cut(values, 32), 1)
    return np.concatenate([making.half(scales), making.planes(codes, 4, 2, 16)], axis=1)


SCHEME = _ggml.Blocks("iq4_nl", "IQ4_NL", 4, 32, 18, expand, make, (0,))
