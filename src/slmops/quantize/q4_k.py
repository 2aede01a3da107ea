"""Q4_K, 144 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * scale * code - dmin * min; 32 bytes hold 32 low nibbles, then 32 high ones."""
    scales, mins = _ggml.scales_and_mins(blocks[:, 4:16])
    runs = [_ggml.fields(blocks[:, at : at + 32], 4, 2).reshape(-1, 64) for at in range(16, 144, 32)]
    return _ggml.with_scales(np.concatenate(runs, axis=1), _ggml.f16(blocks, 0) * scales, _ggml.f16(blocks, 2) * mins)


def make(values: Array) -> Bytes:
    """The way back: codes 0 .. 15 for 32 elements."""
    found = making.with_minima(making.cut(values), 32, 15, 63, (-1.0, 0.1, 21), absolute=False)
    small = making.scales_and_mins(found.scales, found.mins)
    return np.concatenate([found.d, found.dmin, small, making.planes(found.codes, 4, 2, 32)], axis=1)


SCHEME = _ggml.Blocks("q4_k", "Q4_K", 4, 256, 144, expand, make, (0, 2))
