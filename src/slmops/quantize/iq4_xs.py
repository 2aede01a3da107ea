"""IQ4_XS, 136 bytes for 256: f16 d, 16 high bits of scales, 4 bytes of their nibbles, 128 bytes of codebook nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * (scale - 32) * codebook[code], one 6-bit scale for 32."""
    nibbles = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    tops = np.stack([_ggml.fields(blocks[:, at : at + 1], 2, 4).reshape(-1, 4) for at in (2, 3)], axis=1).reshape(-1, 8)
    scales = (nibbles | tops << 4).astype(np.int8) - np.int8(32)
    runs = [_ggml.fields(blocks[:, at : at + 16], 4, 2).reshape(-1, 32) for at in range(8, 136, 16)]
    codes = _ggml.CODEBOOK[np.concatenate(runs, axis=1)]
    return _ggml.with_scales(codes, _ggml.f16(blocks, 0) * scales)


def make(values: Array) -> Bytes:
    """The way back: scales -32 .. 31 for 32 elements."""
    scales, codes = _ggml.by_codebook(making.cut(values), 8)
    d, small = making.signed_level(scales, 32)
    codes = _ggml.nearest(making.cut(values), d * small.astype(np.float32))
    stored = (small + 32).astype(np.uint8)
    tops = making.planes(stored >> 4, 2, 4, 1)
    low = stored[:, 0::2] & 15 | (stored[:, 1::2] & 15) << 4
    return np.concatenate([making.half(d), tops, low, making.planes(codes, 4, 2, 16)], axis=1)


SCHEME = _ggml.Blocks("iq4_xs", "IQ4_XS", 4, 256, 136, expand, make, (0,))
