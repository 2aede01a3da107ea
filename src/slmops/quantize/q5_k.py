"""Q5_K, 176 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 32 bytes of high bits, 128 of nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * scale * code - dmin * min, the fifth bit of a run of 32 in one bit plane of the high bits."""
    scales, mins = _ggml.scales_and_mins(blocks[:, 4:16])
    runs = [_ggml.fields(blocks[:, at : at + 32], 4, 2).reshape(-1, 64) for at in range(48, 176, 32)]
    high = _ggml.fields(blocks[:, 16:48], 1, 8).reshape(-1, 256)
    codes = np.concatenate(runs, axis=1) | high << 4
    return _ggml.with_scales(codes, _ggml.f16(blocks, 0) * scales, _ggml.f16(blocks, 2) * mins)


def make(values: Array) -> Bytes:
    """The way back: codes 0 .. 31 for 32 elements."""
    found = making.with_minima(making.cut(values), 32, 31, 63, (-0.5, 0.1, 16), absolute=False)
    small = making.scales_and_mins(found.scales, found.mins)
    high, low = making.planes(found.codes >> 4, 1, 8, 32), making.planes(found.codes & 15, 4, 2, 32)
    return np.concatenate([found.d, found.dmin, small, high, low], axis=1)


SCHEME = _ggml.Blocks("q5_k", "Q5_K", 5, 256, 176, expand, make, (0, 2))
