"""IQ4_NL, 18 bytes for 32: f16 d, then nibbles that name one of sixteen fixed values."""

import numpy as np

from slmops.core.tensor import Array, Bytes
from slmops.quantize import _ggml
from slmops.quantize import _ggml_make as making


def parse(blocks: Bytes) -> _ggml.Leveled:
    """16 low nibbles, then 16 high ones."""
    codes = _ggml.fields(blocks[:, 2:], 4, 2).reshape(-1, 32)
    return _ggml.Leveled(codes, np.ones((len(blocks), 1), np.int8), None, _ggml.f16(blocks, 0), None)


def join(found: _ggml.Leveled) -> Bytes:
    return np.concatenate([*making.halves(found), making.planes(found.codes, 4, 2, 16)], axis=1)


def make(values: Array) -> Bytes:
    """The scale with which the codebook's values come nearest."""
    scales, codes = making.by_codebook(making.cut(values, 32), 1)
    return join(_ggml.Leveled(codes, np.ones(scales.shape, np.int8), None, scales, None))


FORM = _ggml.Form(parse, join, values=_ggml.CODEBOOK)
SCHEME = _ggml.leveled("iq4_nl", 4, 32, 18, (0,), FORM, make)
