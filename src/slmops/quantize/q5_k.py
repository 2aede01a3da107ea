"""Q5_K, 176 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 32 bytes of high bits, 128 of nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """The fifth bit of a run of 32 lies in one bit plane of the high bits."""
    runs = [_ggml.fields(blocks[:, at : at + 32], 4, 2).reshape(-1, 64) for at in range(48, 176, 32)]
    codes: Bytes = np.concatenate(runs, axis=1) | _ggml.fields(blocks[:, 16:48], 1, 8).reshape(-1, 256) << np.uint8(4)
    scales, mins = _ggml.scales_and_mins(blocks[:, 4:16])
    return _ggml.Leveled(codes, scales, mins, _ggml.f16(blocks, 0), _ggml.f16(blocks, 2))


def join(found: _ggml.Leveled) -> Bytes:
    high, low = making.planes(found.codes >> 4, 1, 8, 32), making.planes(found.codes & 15, 4, 2, 32)
    return np.concatenate([*making.halves(found), making.scales_and_mins(found), high, low], axis=1)


def make(values: Array) -> Bytes:
    """Codes 0 .. 31 for 32 elements."""
    return join(making.with_minima(making.cut(values), 32, 31, 63, (-0.5, 0.1, 16), absolute=False))


FORM = _ggml.Form(parse, join, scales=Freedom(0, 63), mins=Freedom(0, 63))
SCHEME = _ggml.leveled("q5_k", 5, 256, 176, (0, 2), FORM, make)
