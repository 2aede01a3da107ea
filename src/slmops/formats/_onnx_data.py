"""model.onnx.data: where each initializer lies, decided while the graph is made, so that no weight need be in memory."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from slmops.core.layout import Region
from slmops.core.spec import Rope
from slmops.core.tensor import Array, elements
from slmops.formats import _encode

DATA = "model.onnx.data"
PAGE, LINE = 4096, 64
FLOAT, UINT8, INT32, INT64, FLOAT16 = 1, 2, 6, 7, 10
"""onnx.TensorProto.DataType"""
ELEMENT_TYPES = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}


class DataFile:
    """Assigns places in the external data file and hands out the initializers that point there."""

    def __init__(self) -> None:
        self.size = 0
        self.literals: list[tuple[str, int, bytes]] = []
        self.regions: dict[str, list[Region]] = {}
        self.initializers: dict[str, Any] = {}

    def literal(self, name: str, values: Array) -> str:
        """A constant that is known now."""
        if name not in self.initializers:
            self.literals.append((DATA, self._point(name, values.shape, values.dtype.name), values.tobytes()))
        return name

    def rows(self, name: str, role: str, shape: tuple[int, ...], dtype: str, encode: _encode.Encoder) -> str:
        """An initializer that the rows of this role fill; `shape` may be another than the tensor's behind the first axis."""
        if name not in self.initializers:
            offset = self._point(name, shape, dtype)
            unit = elements(shape[1:]) * np.dtype(dtype).itemsize
            self.regions.setdefault(role, []).append(Region(DATA, offset, unit, encode))
        return name

    def alias(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """Another initializer over the same bytes in another shape: nothing is copied, on disk or in memory."""
        if name not in self.initializers:
            tensor = type(self.initializers[of])()
            tensor.CopyFrom(self.initializers[of])
            tensor.name = name
            del tensor.dims[:]
            tensor.dims.extend(shape)
            self.initializers[name] = tensor
        return name

    def _point(self, name: str, shape: tuple[int, ...], dtype: str) -> int:
        from onnx import TensorProto

        nbytes = elements(shape) * np.dtype(dtype).itemsize
        # ONNX Runtime maps the file into memory: what is large starts on a page, the rest on a cache line.
        align = PAGE if nbytes >= PAGE else LINE
        offset = -(-self.size // align) * align
        self.size = offset + nbytes
        tensor = TensorProto(name=name, dims=shape, data_type=ELEMENT_TYPES[dtype], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", DATA), ("offset", str(offset)), ("length", str(nbytes))):
            tensor.external_data.add(key=key, value=value)
        self.initializers[name] = tensor
        return offset


@functools.lru_cache(maxsize=4)
def rotations(rope: Rope, context: int, far: bool) -> tuple[Array, Array]:
    """Cosines and sines [context, dim/2]: a tenth of a second for long contexts, and each scheme's graph asks again."""
    angles = np.arange(context, dtype=np.float32)[:, None] * rope.frequencies(far)[None]
    cos, sin = (function(angles) * np.float32(rope.magnitude) for function in (np.cos, np.sin))
    return cos, sin


def last_tokens(states: str) -> list[Any]:
    """Nodes that pick each sequence's last token: in a batch of several lengths the mask says which that is, and the
    shorter prompts are padded behind it (as GroupQueryAttention reads them)."""
    from onnx import helper

    steps: tuple[tuple[str, list[str], dict[str, int]], ...] = (
        ("Shape", ["attention_mask"], {"start": 1, "end": 2}),
        ("Shape", ["input_ids"], {"start": 1, "end": 2}),
        ("Sub", ["last.0", "last.1"], {}),  # positions before this call's
        ("ReduceSum", ["attention_mask", "one"], {"keepdims": 0}),
        ("Sub", ["last.3", "one"], {}),
        ("Sub", ["last.4", "last.2"], {}),
        ("Max", ["last.5", "zero"], {}),
        ("Unsqueeze", ["last.6", "one"], {}),
        ("GatherND", [states, "last.7"], {"batch_dims": 1}),
        ("Unsqueeze", ["last.8", "one"], {}),
    )
    return [
        helper.make_node(kind, ins, [f"last.{number}"], f"last/{kind}.{number}", **attributes)
        for number, (kind, ins, attributes) in enumerate(steps)
    ]
