"""Q2_K, 84 bytes for 256: 16 bytes of 4-bit scales and minima, 64 bytes of codes, f16 d, f16 dmin."""

import numpy as np

from slmops.core.tensor import Array, Bytes, Floats
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def expand(blocks: Bytes) -> Floats:
    """value = d * scale * code - dmin * min; 32 bytes of codes hold four runs of 32, lowest bits first."""
    small = blocks[:, :16]
    codes = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (16, 48)], axis=1)
    scales = _ggml.f16(blocks, 80) * (small & 15)
    return _ggml.with_scales(codes, scales, _ggml.f16(blocks, 82) * (small >> 4))


def make(values: Array) -> Bytes:
    """The way back: 3 codes above 0 for 16 elements, weighted by their magnitudes."""
    found = making.with_minima(making.cut(values), 16, 3, 15, (-0.5, 0.1, 15), absolute=True)
    return np.concatenate(
        [found.scales | found.mins << 4, making.planes(found.codes, 2, 4, 32), found.d, found.dmin], axis=1
    )


SCHEME = _ggml.Blocks("q2_k", "Q2_K", 2, 256, 84, expand, make, (80, 82))
