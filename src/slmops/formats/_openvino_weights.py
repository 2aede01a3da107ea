"""Weights as an OpenVINO graph's constants: where their bytes lie, and the layers that turn them to f32 again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slmops.core.layout import Region
from slmops.core.scheme import Packed
from slmops.core.tensor import Tensor, elements
from slmops.formats import _encode
from slmops.formats._openvino_ir import BY_ROW, Graph, Port, Shape
from slmops.quantize._cast import cast
from slmops.quantize.w8a8 import ByRow

BIN = "openvino_model.bin"
_DECOMPRESSION = '<rt_info><attribute name="decompression" version="0"/></rt_info>'
_DENSE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class Constants:
    """A model's tensors in a graph, each once. `regions` says what will fill their bytes."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self.regions: dict[str, list[Region]] = {role: [] for role in tensors}
        self._graph, self._tensors, self._names = graph, tensors, names
        self._matrices: dict[str, Port] = {}
        self._rows: dict[str, tuple[Port, Port]] = {}

    def by_row(self, role: str) -> bool:
        """Whether a matrix has 8-bit codes with one scale a row."""
        tensor = self._tensors[role]
        return isinstance(tensor, Packed) and isinstance(tensor.scheme, ByRow)

    def widths_by_row(self) -> list[int]:
        """Columns of every such matrix."""
        return [tensor.shape[1] for role, tensor in self._tensors.items() if self.by_row(role)]

    def vector(self, role: str, shape: Shape, offset: float = 0.0) -> Port:
        """A norm's weight (as it multiplies) or a bias in f32, laid along the last axis of `shape`."""
        tensor = self._tensors[role]
        (size,) = tensor.shape
        shape = (*shape[:-1], size)
        port, place = self._graph.weight(self._names[role], "f32", shape, size * 4)
        self.regions[role].append(Region(BIN, place.offset, 4, _encode.shifted(offset)))
        return port

    def matrix(self, role: str) -> Port:
        """f32 [output, input], decompressed by the engine as it multiplies; a tied matrix is held once."""
        if role not in self._matrices:
            tensor = self._tensors[role]
            self._matrices[role] = self._packed(role, tensor) if isinstance(tensor, Packed) else self._dense(role, tensor)
        return self._matrices[role]

    def _dense(self, role: str, tensor: Tensor) -> Port:
        element_type, itemsize = _DENSE[tensor.dtype.name], tensor.dtype.itemsize
        nbytes = elements(tensor.shape) * itemsize
        port, place = self._graph.weight(self._names[role], element_type, tensor.shape, nbytes)
        row = elements(tensor.shape[1:]) * itemsize
        self.regions[role].append(Region(BIN, place.offset, row, _encode.dense(tensor.dtype)))
        if element_type == "f32":
            return port
        return self._graph.convert(port, "f32", _DECOMPRESSION)

    def _packed(self, role: str, tensor: Packed) -> Port:
        """Constant -> Convert [-> Subtract(zero)] -> Multiply(scale) -> Reshape -> Convert, as NNCF writes it.

        A constant zero becomes signed codes without a zero point, as optimum writes symmetric weights: as fast as u4 with
        one, a tenth faster than u8 with one (AVX512-VNNI), and nothing for other devices' plugins to trip over.
        """
        scheme, name = tensor.scheme, self._names[role]
        if isinstance(scheme, ByRow):
            return self._by_row(role)
        rows, columns = tensor.shape
        groups = columns // scheme.group
        code = ("u" if scheme.zero is None else "i") + str(scheme.bits)
        width = columns * scheme.bits // 8
        port, place = self._graph.weight(name, code, (rows, groups, scheme.group), rows * width)
        encode = _encode.codes if scheme.zero is None else _encode.signed4 if scheme.bits == 4 else _encode.signed8
        self.regions[role].append(Region(BIN, place.offset, width, encode))
        value = self._graph.convert(port, "f16")
        if scheme.zero is None:
            # Each matrix has its own: the CPU plugin turns the embedding's to f32 for its Gather, and matrices that
            # shared that constant would leave the path with integer zero points.
            shape = (rows, groups, 1)
            zeros, place = self._graph.weight(f"{name}/zero_point", code, shape, -(-rows * groups * scheme.bits // 8))
            # u4 constants have no padding between rows: an odd number of groups ends in the middle of a byte.
            unit = 2 if groups * scheme.bits % 8 else 1
            width = groups * unit * scheme.bits // 8
            points = _encode.zeros(scheme.bits, padded=False)
            self.regions[role].append(Region(BIN, place.offset, width, points, unit))
            value = self._graph.binary("Subtract", value, self._graph.convert(zeros, "f16"))
        scales, place = self._graph.weight(f"{name}/scale", "f16", (rows, groups, 1), rows * groups * 2)
        self.regions[role].append(Region(BIN, place.offset, groups * 2, _encode.scales(np.dtype(np.float16))))
        value = self._graph.binary("Multiply", value, scales)
        flat = [value, self._graph.constant([rows, columns])]
        value = self._graph.node("Reshape", flat, ("f16", (rows, columns)), data={"special_zero": "false"})
        return self._graph.convert(value, "f32")

    def _by_row(self, role: str) -> Port:
        """Constant -> Convert -> Multiply(scale of the row) -> Convert: 8 bits, symmetric, as NNCF writes INT8_SYM."""
        codes, scales = self._codes_by_row(role)
        return self._graph.convert(self._graph.binary("Multiply", self._graph.convert(codes, "f16"), scales), "f32")

    def looked_up(self, role: str, rows: Port) -> Port:
        """Rows of a matrix with one scale a row, f32 [batch, positions, columns].

        Gather comes before Multiply: in a graph that rounds activations the plugin would turn the whole matrix to f32.
        """
        codes, scales = self._codes_by_row(role)

        def taken(part: Port) -> Port:
            inputs, shape = [part, rows, self._graph.constant(0)], (*rows.shape, part.shape[1])
            found = self._graph.node("Gather", inputs, (part.type, shape), opset=8, data={"batch_dims": "0"})
            return self._graph.convert(found, "f32")

        return self._graph.binary("Multiply", taken(codes), taken(scales))

    def _codes_by_row(self, role: str) -> tuple[Port, Port]:
        """i8 [rows, columns] and f16 [rows, 1], of which a tied matrix has one each."""
        if role not in self._rows:
            name, (rows, columns) = self._names[role], self._tensors[role].shape
            port, place = self._graph.weight(name, "i8", (rows, columns), rows * columns)
            self.regions[role].append(Region(BIN, place.offset, columns, _encode.signed8))
            scales, place = self._graph.weight(name + BY_ROW, "f16", (rows, 1), rows * 2)
            half = np.dtype(np.float16)
            self.regions[role].append(Region(BIN, place.offset, 2, lambda block: cast(_encode.first_scales(block), half)))
            self._rows[role] = port, scales
        return self._rows[role]
