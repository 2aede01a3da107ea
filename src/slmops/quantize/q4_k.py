"""Q4_K, 144 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """32 bytes hold 32 low nibbles, then 32 high ones."""
    runs = [_ggml.fields(blocks[:, at : at + 32], 4, 2).reshape(-1, 64) for at in range(16, 144, 32)]
    scales, mins = _ggml.scales_and_mins(blocks[:, 4:16])
    return _ggml.Leveled(np.concatenate(runs, axis=1), scales, mins, _ggml.f16(blocks, 0), _ggml.f16(blocks, 2))


def join(found: _ggml.Leveled) -> Bytes:
    small = making.scales_and_mins(found)
    return np.concatenate([*making.halves(found), small, making.planes(found.codes, 4, 2, 32)], axis=1)


def make(values: Array) -> Bytes:
    """Codes 0 .. 15 for 32 elements."""
    return join(making.with_minima(making.cut(values), 32, 15, 63, (-1.0, 0.1, 21), absolute=False))


FORM = _ggml.Form(parse, join, scales=Freedom(0, 63), mins=Freedom(0, 63))
SCHEME = _ggml.leveled("q4_k", 4, 256, 144, (0, 2), FORM, make)
