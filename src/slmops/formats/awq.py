"""AWQ checkpoints (AutoAWQ's gemm form), read code for code.

A quantized `x.weight` [N, K] is kept transposed: x.qweight int32 [K, N / 8], nibble i of a word is output ORDER[i] of its
eight; x.qzeros int32 [K / group, N / 8] likewise; x.scales [K / group, N]. value = scale * (code - zero).
Source: AutoAWQ, awq/utils/packing_utils.py and awq/modules/linear/gemm.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import DTYPES, Array, Bytes
from slmops.formats import _checkpoint
from slmops.formats._columns import columns, turn, turned
from slmops.quantize._affine import grid, packed
from slmops.quantize._cast import cast, check_finite

TITLE = "AWQ"
ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
EACH = 8


def detect(path: Path) -> bool:
    """A folder whose config.json says quant_method awq."""
    return _checkpoint.has_method(path, "awq")


def read(path: Path) -> Model:
    """The folder as a Model: codes as `Packed`, the rest as plain numbers."""
    folder = _checkpoint.read(path)
    group = _group(folder.config)
    return folder.model(folder.tensors("qweight", lambda module, shape: _packed(folder, module, shape, group)))


def _group(config: Mapping[str, Any]) -> int | None:
    """The group's size, None for whole columns; raises Unsupported for forms that are not read."""
    said = _checkpoint.quantization(config)
    version, bits = str(said.get("version", "gemm")).lower(), said.get("bits", said.get("w_bit"))
    group = said.get("group_size", said.get("q_group_size", 128))
    if version != "gemm" or bits != 4:
        raise Unsupported(f"AWQ {version!r} of {bits} bits is not read"[:200], "gemm of 4 bits is")
    if not isinstance(group, int) or isinstance(group, bool) or (group != -1 and group < 8):
        raise CorruptInput(f"config.json gives AWQ groups of {group!r}"[:200], "download it again")
    return None if group == -1 else group


def _packed(folder: _checkpoint.Folder, module: str, shape: tuple[int, int], size: int | None) -> Packed:
    rows, inputs = shape
    group = size or inputs
    if inputs % group or rows % EACH:
        raise CorruptInput(f"{module} has {inputs} inputs, which groups of {group} do not divide", "download it again")
    groups = inputs // group
    weight = folder.take(f"{module}.qweight", ("I32",), (inputs, rows // EACH))
    scales = folder.take(f"{module}.scales", ("F16", "BF16", "F32"), (groups, rows))
    symmetric = f"{module}.qzeros" not in folder.stored
    points = None if symmetric else folder.take(f"{module}.qzeros", ("I32",), (groups, rows // EACH))

    def parameters(start: int, stop: int) -> Codes:
        scale = cast(turned(scales, start, stop), DTYPES["f32"])
        check_finite(scale, f"{module}.scales", start)
        none = np.empty((stop - start, 0), np.uint8)
        if points is None:
            return Codes(none, scale)
        words = columns(points, start // EACH, -(-stop // EACH))
        return Codes(none, scale, _nibbles(words, start % EACH, stop - start))

    def block(start: int, stop: int) -> Codes:
        words = columns(weight, start // EACH, -(-stop // EACH))
        return dataclasses.replace(parameters(start, stop), codes=packed(_nibbles(words, start % EACH, stop - start), 4))

    kind = {dtype: name for name, dtype in DTYPES.items()}[scales.dtype]
    return Packed(shape, grid(4, group, kind, zero=8 if symmetric else None), block, parameters)


def _nibbles(words: Array, skip: int, count: int) -> Bytes:
    """int32 [inputs, outputs / 8] -> uint8 [count, inputs], the first `skip` outputs left out."""
    found = np.empty((len(words), words.shape[1], EACH), np.uint8)
    for place, output in enumerate(ORDER):
        found[..., output] = (words.view(np.uint32) >> np.uint32(4 * place)) & np.uint32(15)
    return turn(found.reshape(len(words), -1)[:, skip : skip + count])
