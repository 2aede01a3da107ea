"""OpenVINO IR version 11, emitted as text: layers, edges and the places of constants in the .bin.

Written without the openvino package, so planning takes neither its memory nor its time. Source of the form: what
`openvino.save_model` writes (src/core/src/pass/serialize.cpp and src/frontends/ir in openvino 2026.4); the tests have the
real runtime read it and infer every shape anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

from slmops.core.tensor import Array

ALIGNMENT = 64
"""Constants start at multiples of this many bytes, so that the engine can use them where they are mapped."""

PRECISIONS = {
    "f32": "FP32",
    "f16": "FP16",
    "bf16": "BF16",
    "i64": "I64",
    "i32": "I32",
    "u8": "U8",
    "i8": "I8",
    "u4": "U4",
    "i4": "I4",
    "boolean": "BOOL",
}
"""Element types as attributes spell them -> as ports spell them."""

_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8", "bool": "boolean"}

OPTIONS = {"ACTIVATIONS_SCALE_FACTOR": "8.0"}
"""As optimum writes it: devices that compute in f16 scale activations by it, so that they stay finite; the CPU does not."""

BY_ROW = "/scale_of_row"
"""Ending of the name of scales of which each row has one."""

BROADCAST = {"auto_broadcast": "numpy"}
DYNAMIC = -1
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An output of a layer: what a value of the program is here. Unknown dimensions are DYNAMIC."""

    layer: int
    index: int
    type: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Place:
    """Where a constant's bytes lie in the .bin."""

    offset: int
    nbytes: int


class Graph:
    """Collects layers in topological order and lays out the .bin as constants come."""

    def __init__(self) -> None:
        self._layers: list[str] = []
        self._edges: list[str] = []
        self._constants: dict[tuple[str, Shape, bytes], Port] = {}
        self.literals: list[tuple[int, bytes]] = []
        self.nbytes = 0

    def node(
        self,
        kind: str,
        inputs: Sequence[Port],
        result: tuple[str, Shape] | None,
        *,
        opset: int = 1,
        name: str = "",
        data: Mapping[str, str] | None = None,
        names: str = "",
        rt_info: str = "",
    ) -> Port:
        """Add a layer. `result` is (type, shape) of its one output; None where it has none (Result)."""
        number = len(self._layers)
        text = [f'<layer id="{number}" name={quoteattr(name or f"{kind}_{number}")} type="{kind}" version="opset{opset}"']
        text.append(f" output_names={quoteattr(names)}>" if names and result is None else ">")
        if data:
            text.append("<data" + "".join(f" {key}={quoteattr(value)}" for key, value in data.items()) + "/>")
        text.append(rt_info)
        if inputs:
            text.append("<input>")
            for index, port in enumerate(inputs):
                text.append(_port(index, port.type, port.shape))
                self._edges.append(
                    f'<edge from-layer="{port.layer}" from-port="{port.index}" to-layer="{number}" to-port="{index}"/>'
                )
            text.append("</input>")
        if result:
            text += ["<output>", _port(len(inputs), *result, names), "</output>"]
        self._layers.append("".join(text) + "</layer>")
        return Port(number, len(inputs), *(result or ("f32", ())))

    def binary(self, kind: str, x: Port, y: Port, result: str = "") -> Port:
        """A layer of two inputs that are laid over one another. result: its type, where it is not the first one's."""
        return self.node(kind, [x, y], (result or x.type, broadcast(x.shape, y.shape)), data=BROADCAST)

    def convert(self, x: Port, element_type: str, rt_info: str = "") -> Port:
        return self.node("Convert", [x], (element_type, x.shape), data={"destination_type": element_type}, rt_info=rt_info)

    def parameter(self, name: str, element_type: str, shape: Shape) -> Port:
        """An input of the model. Paged attention's pass looks it up by its friendly name, which is the layer's."""
        data = {"shape": dimensions(shape), "element_type": element_type}
        return self.node("Parameter", (), (element_type, shape), name=name, data=data, names=name)

    def place(self, nbytes: int) -> Place:
        """Take the next `nbytes` of the .bin."""
        offset = -(-self.nbytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = offset + nbytes
        return Place(offset, nbytes)

    def weight(self, name: str, element_type: str, shape: Shape, nbytes: int) -> tuple[Port, Place]:
        """A constant whose bytes are streamed later."""
        place = self.place(nbytes)
        return self._constant(name, element_type, shape, place), place

    def constant(self, values: Array | Sequence[int] | int | float, name: str = "") -> Port:
        """A small constant whose bytes are known now; equal ones are one layer. Whole numbers are i64, floats f32."""
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        content = np.ascontiguousarray(array).tobytes()
        key = (_TYPES[array.dtype.name], array.shape, content)
        if key not in self._constants:
            place = self.place(len(content))
            self.literals.append((place.offset, content))
            self._constants[key] = self._constant(name, key[0], array.shape, place)
        return self._constants[key]

    def _constant(self, name: str, element_type: str, shape: Shape, place: Place) -> Port:
        data = {
            "element_type": element_type,
            "shape": dimensions(shape),
            "offset": str(place.offset),
            "size": str(place.nbytes),
        }
        return self.node("Const", (), (element_type, shape), name=name, data=data)

    def xml(self, name: str, options: Mapping[str, str]) -> bytes:
        """The model as the text of an .xml file. options: what it asks of the engine, where its user asks for nothing."""
        asked = "".join(f"<{key} value={quoteattr(value)}/>" for key, value in {**OPTIONS, **options}.items())
        lines = ['<?xml version="1.0"?>', f'<net name={quoteattr(name)} version="11">', "<layers>", *self._layers]
        lines += [
            "</layers>",
            "<edges>",
            *self._edges,
            "</edges>",
            f"<rt_info><runtime_options>{asked}</runtime_options></rt_info>",
            "</net>",
            "",
        ]
        return "\n".join(lines).encode("utf-8", "xmlcharrefreplace")


def broadcast(x: Shape, y: Shape) -> Shape:
    """NumPy's rule; a dynamic size stays dynamic unless the other is fixed above one."""
    rank = max(len(x), len(y))
    x, y = (1,) * (rank - len(x)) + x, (1,) * (rank - len(y)) + y
    return tuple(max(a, b) if 1 not in (a, b) else (b if a == 1 else a) for a, b in zip(x, y, strict=True))


def dimensions(shape: Shape) -> str:
    """A shape as an attribute spells it: `?,8,?,128`."""
    return ",".join("?" if size == DYNAMIC else str(size) for size in shape)


def _port(index: int, element_type: str, shape: Shape, names: str = "") -> str:
    named = f" names={quoteattr(names)}" if names else ""
    sizes = "".join(f"<dim>{size}</dim>" for size in shape)
    return f'<port id="{index}" precision="{PRECISIONS[element_type]}"{named}>{sizes}</port>'
