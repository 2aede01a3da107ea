"""Q3_K, 110 bytes for 256: 32 bytes of high bits, 64 bytes of low bits, 12 bytes of 6-bit scales, f16 d."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """Scales: low four bits are the nibbles of eight bytes; the two high bits lie in the last four bytes, by pairs."""
    low = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (32, 64)], axis=1)
    codes = low | _ggml.fields(blocks[:, :32], 1, 8).reshape(-1, 256) << 2
    packed = blocks[:, 96:108]
    nibbles = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    tops = _ggml.fields(packed[:, 8:], 2, 4).reshape(-1, 16)
    scales = (nibbles | tops << 4).astype(np.int8) - np.int8(32)
    return _ggml.Leveled(codes, scales, None, _ggml.f16(blocks, 108), None)


def join(found: _ggml.Leveled) -> Bytes:
    small = (found.scales + 32).astype(np.uint8)
    low = small[:, :8] & 15 | (small[:, 8:] & 15) << 4
    tops = making.planes(small >> 4, 2, 4, 4)
    high, codes = making.planes(found.codes >> 2, 1, 8, 32), making.planes(found.codes & 3, 2, 4, 32)
    return np.concatenate([high, codes, low, tops, *making.halves(found)], axis=1)


def make(values: Array) -> Bytes:
    """Codes -4 .. 3 for 16 elements under scales -32 .. 31."""
    return join(making.with_signs(making.cut(values), 16, 4, 32, power=1, tries=3))


FORM = _ggml.Form(parse, join, zero=4, scales=Freedom(-32, 31))
SCHEME = _ggml.leveled("q3_k", 3, 256, 110, (108,), FORM, make)
