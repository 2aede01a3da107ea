"""Q2_K, 84 bytes for 256: 16 bytes of 4-bit scales and minima, 64 bytes of codes, f16 d, f16 dmin."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """32 bytes of codes hold four runs of 32, lowest bits first."""
    small = blocks[:, :16]
    codes = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (16, 48)], axis=1)
    return _ggml.Leveled(codes, small & 15, small >> 4, _ggml.f16(blocks, 80), _ggml.f16(blocks, 82))


def join(found: _ggml.Leveled) -> Bytes:
    small = found.scales.astype(np.uint8) | np.asarray(found.mins, np.uint8) << 4
    return np.concatenate([small, making.planes(found.codes, 2, 4, 32), *making.halves(found)], axis=1)


def make(values: Array) -> Bytes:
    """3 codes above 0 for 16 elements, weighted by their magnitudes."""
    return join(making.with_minima(making.cut(values), 16, 3, 15, (-0.5, 0.1, 15), absolute=True))


FORM = _ggml.Form(parse, join, scales=Freedom(0, 15), mins=Freedom(0, 15))
SCHEME = _ggml.leveled("q2_k", 2, 256, 84, (80, 82), FORM, make)
