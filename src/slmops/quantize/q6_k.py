"""Q6_K, 210 bytes for 256: 128 bytes of low nibbles, 64 bytes of high bits, 16 int8 scales, f16 d."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * scale * (code - 32); 64 bytes hold 64 low nibbles then 64 high ones, 32 bytes four runs of high bits."""
    low = np.concatenate([_ggml.fields(blocks[:, at : at + 64], 4, 2).reshape(-1, 128) for at in (0, 64)], axis=1)
    high = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (128, 160)], axis=1)
    codes = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _ggml.with_scales(codes, _ggml.f16(blocks, 208) * scales)


def make(values: Array) -> Bytes:
    """The way back: codes -32 .. 31 for 16 elements under scales -128 .. 127."""
    found = making.with_signs(making.cut(values), 16, 32, 128, power=2, tries=9)
    low, high = making.planes(found.codes & 15, 4, 2, 64), making.planes(found.codes >> 4, 2, 4, 32)
    return np.concatenate([low, high, found.scales ^ 128, found.d], axis=1)


SCHEME = _ggml.Blocks("q6_k", "Q6_K", 6, 256, 210, expand, make, (208,))
