"""Ternary BitNet checkpoints as transformers packs them, read code for code.

A packed `x.weight` [N, K] is uint8 [N / 4, K]: bits 2i of row r hold row i * N / 4 + r, as the value plus one.
x.weight_scale [1] multiplies where config.json says autobitlinear, and divides where it says bitlinear. Source:
transformers/integrations/bitnet.py (unpack_weights, BitLinear, AutoBitLinear).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import DTYPES
from slmops.formats import _checkpoint
from slmops.quantize._affine import grid, packed

TITLE = "BitNet"


def detect(path: Path) -> bool:
    """A folder whose config.json says quant_method bitnet."""
    return _checkpoint.has_method(path, "bitnet")


def read(path: Path) -> Model:
    """The folder as a Model: ternary codes as `Packed`, the rest as plain numbers."""
    folder = _checkpoint.read(path)
    said = _checkpoint.quantization(folder.config)
    if not said:
        raise CorruptInput("config.json does not say how the weights are packed: quantization_config is missing")
    if said.get("quantization_mode", "offline") != "offline" or said.get("use_rms_norm"):
        raise Unsupported("a BitNet that quantizes its weights while it runs, or norms before them, is not read")
    divides = said.get("linear_class", "bitlinear") == "bitlinear"
    return folder.model(folder.tensors("weight_scale", lambda module, shape: _packed(folder, module, shape, divides)))


def _packed(folder: _checkpoint.Folder, module: str, shape: tuple[int, int], divides: bool) -> Packed:
    rows, columns = shape
    if rows % 4:
        raise CorruptInput(f"{module} has {rows} rows, which four to a byte do not divide")
    quarter = rows // 4
    stored = folder.take(f"{module}.weight", ("U8",), (quarter, columns))
    scale = folder.take(f"{module}.weight_scale", ("F32", "BF16", "F16"), (1,))

    def parameters(start: int, stop: int) -> Codes:
        factor = scale.rows(0, 1).astype(np.float32)
        with np.errstate(divide="ignore"):
            factor = np.float32(1) / factor if divides else factor
        if not np.isfinite(factor).all():
            raise CorruptInput(f"{module}.weight_scale: row 0 is no number to scale by", "download it again")
        return Codes(np.empty((stop - start, 0), np.uint8), np.full((stop - start, 1), factor[0], np.float32))

    def block(start: int, stop: int) -> Codes:
        values = np.empty((stop - start, columns), np.uint8)
        for part in range(4):  # the rows of each quarter that are asked for lie side by side
            first, last = max(start, part * quarter), min(stop, (part + 1) * quarter)
            if first < last:
                words = stored.rows(first - part * quarter, last - part * quarter)
                values[first - start : last - start] = words >> (2 * part) & 3
        if (values > 2).any():
            raise CorruptInput(f"{module} has a code of 3, which is no ternary digit", "download it again")
        return Codes(packed(values, 2), parameters(start, stop).scales)

    kind = "f32" if divides else {dtype: name for name, dtype in DTYPES.items()}[scale.dtype]
    return Packed(shape, grid(2, columns, kind, zero=1), block, parameters)
