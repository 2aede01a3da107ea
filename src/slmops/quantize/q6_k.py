"""Q6_K, 210 bytes for 256: 128 bytes of low nibbles, 64 bytes of high bits, 16 int8 scales, f16 d."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making
from slmops.quantize._grid import Freedom


def parse(blocks: Bytes) -> _ggml.Leveled:
    """64 bytes hold 64 low nibbles then 64 high ones, 32 bytes four runs of high bits."""
    low = np.concatenate([_ggml.fields(blocks[:, at : at + 64], 4, 2).reshape(-1, 128) for at in (0, 64)], axis=1)
    high = np.concatenate([_ggml.fields(blocks[:, at : at + 32], 2, 4).reshape(-1, 128) for at in (128, 160)], axis=1)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _ggml.Leveled(low | high << 4, scales, None, _ggml.f16(blocks, 208), None)


def join(found: _ggml.Leveled) -> Bytes:
    low, high = making.planes(found.codes & 15, 4, 2, 64), making.planes(found.codes >> 4, 2, 4, 32)
    return np.concatenate([low, high, found.scales.astype(np.int8).view(np.uint8), *making.halves(found)], axis=1)


def make(values: Array) -> Bytes:
    """Codes -32 .. 31 for 16 elements under scales -128 .. 127."""
    return join(making.with_signs(making.cut(values), 16, 32, 128, power=2, tries=9))


FORM = _ggml.Form(parse, join, zero=32, scales=Freedom(-128, 127))
SCHEME = _ggml.leveled("q6_k", 6, 256, 210, (208,), FORM, make)
