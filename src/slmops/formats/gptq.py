"""GPTQ checkpoints (AutoGPTQ, GPTQModel; formats gptq and gptq_v2), read code for code.

A quantized `x.weight` [N, K] is kept transposed: x.qweight int32 [K * bits / 32, N], element 0 of a column in the low bits;
x.scales [K / group, N]; x.qzeros int32 [K / group, N * bits / 32], zero points less one in `gptq`, as they are in
`gptq_v2`; x.g_idx int32 [K], each column's group. value = scale * (code - zero). Source: GPTQModel,
nn_modules/qlinear/torch.py and utils/model.py (convert_gptq_v1_to_v2_format).
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
from slmops.core.tensor import DTYPES, Bytes, Stored
from slmops.formats import _checkpoint
from slmops.formats._columns import columns, turn, turned
from slmops.quantize._affine import grid, unpacked
from slmops.quantize._cast import cast, check_finite
from slmops.quantize._ordered import Ordered

TITLE = "GPTQ"
WORD = 32
METHODS = ("gptq", "gptqmodel")


def detect(path: Path) -> bool:
    """A folder whose config.json says quant_method gptq."""
    return _checkpoint.has_method(path, *METHODS)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What config.json says about the codes."""

    bits: int
    group: int | None
    """None: one for the whole column."""
    plus: int
    """What is added to a stored zero point."""


def settings(config: Mapping[str, Any]) -> Settings:
    """Raises Unsupported for forms that are not read."""
    said = _checkpoint.quantization(config)
    bits, group, form = said.get("bits"), said.get("group_size", 128), said.get("checkpoint_format", "gptq")
    if bits not in (2, 3, 4, 8) or said.get("pack_dtype", "int32") != "int32" or said.get("dynamic"):
        raise Unsupported(f"GPTQ of {bits} bits, packed in {said.get('pack_dtype', 'int32')}, is not read"[:200])
    if form not in ("gptq", "gptq_v2"):
        raise Unsupported(f"GPTQ's checkpoint format {form!r} is not read"[:200], "gptq and gptq_v2 are")
    if not isinstance(group, int) or isinstance(group, bool) or (group != -1 and group < 8):
        raise CorruptInput(f"config.json gives GPTQ groups of {group!r}"[:200], "download it again")
    return Settings(bits, None if group == -1 else group, 1 if form == "gptq" else 0)


def read(path: Path) -> Model:
    """The folder as a Model: codes as `Packed`; matrices with act-order in a scheme of their own, which stays here."""
    folder = _checkpoint.read(path)
    said = settings(folder.config)
    tensors = folder.tensors("qweight", lambda module, shape: _packed(folder, module, shape, said))
    for name in [name for name in folder.stored if name.endswith(".bias") and name not in folder.taken]:
        _zeros_only(folder, name)
    return folder.model(tensors)


def _zeros_only(folder: _checkpoint.Folder, name: str) -> None:
    """AutoGPTQ writes a bias of zeros to every layer; one that no role takes must be just that."""
    stored = folder.stored[name]
    if (
        len(stored.shape) == 1
        and stored.shape[0] <= 1 << 20
        and not stored.rows(0, stored.shape[0]).astype(np.float32).any()
    ):
        folder.taken.add(name)


def _packed(folder: _checkpoint.Folder, module: str, shape: tuple[int, int], said: Settings) -> Packed:
    rows, inputs = shape
    bits, group = said.bits, said.group or inputs
    if inputs % group or inputs * bits % WORD or rows * bits % WORD:
        raise CorruptInput(f"{module} has {inputs} inputs, which groups of {group} do not divide", "download it again")
    groups = inputs // group
    weight = folder.take(f"{module}.qweight", ("I32",), (inputs * bits // WORD, rows))
    scales = folder.take(f"{module}.scales", ("F16", "BF16", "F32"), (groups, rows))
    points = folder.take(f"{module}.qzeros", ("I32",), (groups, rows * bits // WORD))
    order = _order(folder, module, inputs, group)

    def parameters(start: int, stop: int) -> Codes:
        scale = cast(turned(scales, start, stop), DTYPES["f32"])
        check_finite(scale, f"{module}.scales", start)
        return Codes(np.empty((stop - start, 0), np.uint8), scale, _zeros(points, bits, said.plus, start, stop))

    def block(start: int, stop: int) -> Codes:
        words = turned(weight, start, stop)
        return dataclasses.replace(parameters(start, stop), codes=words.view(np.uint8))

    kind = {dtype: name for name, dtype in DTYPES.items()}[scales.dtype]
    held = grid(bits, group, kind)
    return Packed(shape, held if order is None else Ordered(held, order), block, parameters)


def _zeros(points: Stored, bits: int, plus: int, start: int, stop: int) -> Bytes:
    """Zero points [rows, groups]. The first form's are stored less one, modulo the code's range."""
    first = start // WORD * WORD  # 32 codes of any width end where a word does
    words = columns(points, first * bits // WORD, min(-(-stop // WORD) * bits, points.shape[1]))
    zeros = unpacked(words.view(np.uint8), bits, words.shape[1] * WORD // bits)[:, start - first : stop - first]
    return turn((zeros + np.uint8(plus)) & np.uint8((1 << bits) - 1))


def _order(folder: _checkpoint.Folder, module: str, inputs: int, group: int) -> Any:
    """Each input's group where that is not simply its place; None otherwise."""
    if f"{module}.g_idx" not in folder.stored:
        return None
    order = folder.take(f"{module}.g_idx", ("I32",), (inputs,)).rows(0, inputs).astype(np.int64)
    if order.min() < 0 or order.max() >= inputs // group:
        raise CorruptInput(f"{module}.g_idx names a group that is not there", "download it again")
    return None if np.array_equal(order, np.arange(inputs) // group) else order
