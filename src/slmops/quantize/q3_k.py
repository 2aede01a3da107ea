"""Q3_K, 110 bytes for 256: 32 bytes of high bits, 64 bytes of low bits, 12 bytes of 6-bit scales, f16 d."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * (scale - 32) * (low bits - (high bit ? 0 : 4))."""
    low = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (32, 64)], axis=1)
    high = _ggml.fields(blocks[:, :32], 1, 8).reshape(-1, 256)
    codes = low.astype(np.int8) - (np.int8(4) * (1 - high.astype(np.int8)))
    packed = blocks[:, 96:108]
    # Low four bits: the nibbles of the first eight bytes; two high bits: the last four bytes, by pairs of bits.
    nibbles = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    tops = _ggml.fields(packed[:, 8:], 2, 4).reshape(-1, 16)
    scales = (nibbles | tops << 4).astype(np.int8) - np.int8(32)
    return _ggml.with_scales(codes, _ggml.f16(blocks, 108) * scales)


def make(values: Array) -> Bytes:
    """The way back: codes -4 .. 3 for 16 elements under scales -32 .. 31."""
    found = making.with_signs(making.cut(values), 16, 4, 32, power=1, tries=3)
    small = found.scales
    low = small[:, :8] & 15 | (small[:, 8:] & 15) << 4
    tops = making.planes(small >> 4, 2, 4, 4)
    high, codes = making.planes(found.codes >> 2, 1, 8, 32), making.planes(found.codes & 3, 2, 4, 32)
    return np.concatenate([high, codes, low, tops, found.d], axis=1)


SCHEME = _ggml.Blocks("q3_k", "Q3_K", 3, 256, 110, expand, make, (108,))
