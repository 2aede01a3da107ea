"""IQ4_XS, 136 bytes for 256: f16 d, 16 high bits of scales, 4 bytes of their nibbles, 128 bytes of codebook nibbles."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """One 6-bit scale, less 32, for 32 elements."""
    nibbles = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    tops = np.stack([_ggml.fields(blocks[:, at : at + 1], 2, 4).reshape(-1, 4) for at in (2, 3)], axis=1).reshape(-1, 8)
    scales = (nibbles | tops << 4).astype(np.int8) - np.int8(32)
    runs = [_ggml.fields(blocks[:, at : at + 16], 4, 2).reshape(-1, 32) for at in range(8, 136, 16)]
    return _ggml.Leveled(np.concatenate(runs, axis=1), scales, None, _ggml.f16(blocks, 0), None)


def join(found: _ggml.Leveled) -> Bytes:
    stored = (found.scales + 32).astype(np.uint8)
    tops = making.planes(stored >> 4, 2, 4, 1)
    low = stored[:, 0::2] & 15 | (stored[:, 1::2] & 15) << 4
    return np.concatenate([*making.halves(found), tops, low, making.planes(found.codes, 4, 2, 16)], axis=1)


def make(values: Array) -> Bytes:
    """Scales -32 .. 31 for 32 elements."""
    scales, codes = making.by_codebook(making.cut(values), 8)
    d, small = making.signed_level(scales, 32)
    codes = making.nearest(making.cut(values), d * small.astype(np.float32))
    return join(_ggml.Leveled(codes, small, None, d, None))


FORM = _ggml.Form(parse, join, scales=Freedom(-32, 31), values=_ggml.CODEBOOK)
SCHEME = _ggml.leveled("iq4_xs", 4, 256, 136, (0,), FORM, make)
