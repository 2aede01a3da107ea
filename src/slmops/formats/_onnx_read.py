"""An ONNX graph back to a Model, from what its own nodes and initializers say. The numbers in them are hostile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, receipt, roles
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Spec
from slmops.core.tensor import Stored, Tensor, elements, shifted
from slmops.core.verify import verify
from slmops.formats import _chat, _files, _protobuf, _tokenizer
from slmops.formats._onnx_data import FLOAT, FLOAT16, UINT8
from slmops.formats._onnx_graph import BLOCKS, CODES, ZERO
from slmops.quantize import w8a8
from slmops.quantize._affine import grid
from slmops.quantize._cast import check_finite

MOST_PROTO = 64 << 20
"""Bytes of a model.onnx without weights; one of a hundred layers has 2 MB."""
DTYPES: Mapping[int, np.dtype[Any]] = {
    FLOAT: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    UINT8: np.dtype(np.uint8),
}
_CURE = "convert it again"


@dataclass(frozen=True)
class Place:
    """An initializer whose bytes lie in a file of the folder, checked to be there and as many as shape and type make."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def matrix(self, rows: int) -> Stored:
        """The same bytes as [rows, the rest]."""
        return Stored(self.path, self.offset, (rows, elements(self.shape) // max(1, rows)), self.dtype)


def read(folder: Path, graph: str) -> Model:
    """The model in a folder of ours, whose config is kept in its receipt, or of ONNX Runtime GenAI's builder."""
    proto = parse(_files.content(folder, graph, MOST_PROTO), graph)
    ours = _files.there(folder, receipt.NAME)
    facts: Mapping[str, Any] = receipt.load(folder) if ours else {}
    if ours:
        config, generation = facts.get("config"), facts.get("generation") or {}
        if not isinstance(config, dict) or not isinstance(generation, dict):
            raise CorruptInput(f"{receipt.NAME} does not hold the model's config", _CURE)
        spec = specs.from_config(config)
        found = tensors(folder, proto.graph, plugins.load("architectures", spec.family).shapes(spec))
    else:
        from slmops.formats import _onnx_import as foreign

        held = foreign.Graph(_places(folder, proto.graph), {node.name: node for node in proto.graph.node})
        config, generation = foreign.config(folder, held), {}
        spec = specs.from_config(config)
        foreign.check(spec)
        found = foreign.tensors(held, spec)
    tokenizer = _tokenizer.read(folder, config, generation)
    if tokenizer is None:
        raise SourceNotFound(f"{folder} has no tokenizer.json", _CURE)
    model = Model(
        name=str(facts.get("name") or folder.resolve().name),
        spec=spec,
        tensors=without_offset(found, spec),
        tokenizer=tokenizer,
        chat_template=_chat.read(folder),
        config=config,
        generation=generation,
        source={"path": str(folder)},
    )
    verify(model)
    return model


def _places(folder: Path, graph: Any) -> dict[str, Place]:
    files: dict[str, tuple[Path, int]] = {}
    return {tensor.name: _place(folder, tensor, files) for tensor in graph.initializer if tensor.external_data}


def parse(content: bytes, name: str) -> Any:
    """A ModelProto, checked to be one."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    _protobuf.bounded(content, model.DESCRIPTOR, name)
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise CorruptInput(f"{name} is not an ONNX model: {error}", _CURE) from None
    # What is no UTF-8 comes as bytes: no name that anybody means.
    named = [text for node in model.graph.node for text in (node.name, node.op_type, *node.input, *node.output)]
    named += [text for tensor in model.graph.initializer for text in (tensor.name, *_external(tensor))]
    if any(isinstance(text, bytes) for text in named):
        raise CorruptInput(f"{name} has names that are no text", _CURE)
    return model


def _external(tensor: Any) -> list[str]:
    return [text for entry in tensor.external_data for text in (entry.key, entry.value)]


def tensors(folder: Path, graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Role -> tensor. A packed matrix is known by the node that reads it, a dense one or a vector by its name alone."""
    places = _places(folder, graph)
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.input and node.output}
    turned = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose" and node.input and node.output
    }
    result: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeMatMul":
            role, tensor = _by_row(node, places, turned, shapes)
            result.setdefault(role, tensor)
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            role, tensor = _packed(node, places, casts, shapes)
            if role in result and _codes_of(result[role]) != _codes_of(tensor):
                raise CorruptInput(f"{role} has different codes in different places of the graph", _CURE)
            result.setdefault(role, tensor)
    for role, shape in shapes.items():
        if role in places and role not in result:
            place = places[role]
            if place.shape != shape or place.dtype == np.uint8:
                raise CorruptInput(f"{role} is {list(place.shape)} {place.dtype.name}, expected {list(shape)}", _CURE)
            result[role] = Stored(place.path, place.offset, place.shape, place.dtype)
    return result


def without_offset(tensors: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Norm weights stand in the graph as they multiply; a checkpoint keeps them without the family's offset."""
    return {role: shifted(tensor, -spec.norm_offset) if roles.is_norm(role) else tensor for role, tensor in tensors.items()}


@dataclass(frozen=True)
class Blocks:
    """Reads rows of codes, scales and zero points from where the graph has them."""

    name: str = field(compare=False)
    """Of the scales."""
    codes: Stored
    scales: Stored
    zeros: Stored | None
    bits: int

    def __call__(self, start: int, stop: int) -> Codes:
        return dataclasses.replace(self.parameters(start, stop), codes=self.codes.rows(start, stop))

    def parameters(self, start: int, stop: int) -> Codes:
        none = np.empty((stop - start, 0), np.uint8)
        scales = self.scales.rows(start, stop).astype(np.float32)
        check_finite(scales, self.name, start)
        if self.zeros is None:
            return Codes(none, scales)
        found = self.zeros.rows(start, stop)
        if self.bits == 8:
            return Codes(none, scales, found)
        zeros = np.empty((len(found), found.shape[1] * 2), np.uint8)
        zeros[:, 0::2], zeros[:, 1::2] = found & 15, found >> 4
        return Codes(none, scales, zeros[:, : scales.shape[1]])


def _codes_of(tensor: Tensor) -> Any:
    return tensor.block if isinstance(tensor, Packed) else None


def _packed(
    node: Any, places: Mapping[str, Place], casts: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, Packed]:
    """The matrix that a MatMulNBits or GatherBlockQuantized node of ours reads."""
    name = (list(node.input) + [""] * 2)[1 if node.op_type == "MatMulNBits" else 0]
    role = name.removesuffix(BLOCKS).removesuffix(CODES)
    shape = shapes.get(role, ())
    if len(shape) != 2 or name not in places:
        raise CorruptInput(f"a {node.op_type} node reads {name[:80]!r}, which is no weight of this model", _CURE)
    return role, matrix(node, places, shape, casts, skip=ZERO)


def _by_row(
    node: Any, places: Mapping[str, Place], turned: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, Packed]:
    """The matrix that a DynamicQuantizeMatMul node of ours reads: codes around 128, a scale a row."""
    ins = [*node.input, "", "", ""]
    name, scheme = turned.get(ins[1], ""), w8a8.SCHEME
    role = name.removesuffix(CODES)
    shape = shapes.get(role, ())
    codes, scales = places.get(name), places.get(ins[2])
    if len(shape) != 2 or shape[1] % scheme.group or codes is None or scales is None:
        raise CorruptInput(f"a {node.op_type} node reads {ins[1][:80]!r}, which is no weight of this model", _CURE)
    if codes.shape != shape or codes.dtype != np.uint8 or scales.shape != shape[:1] or scales.dtype != np.float32:
        raise CorruptInput(f"{role} is {list(codes.shape)[:8]} {codes.dtype.name}, expected {list(shape)} uint8", _CURE)
    blocks = Rows(f"the scales of {role}", codes.matrix(shape[0]), scales.matrix(shape[0]), shape[1] // scheme.group)
    return role, Packed(shape, scheme, blocks, blocks.parameters)


@dataclass(frozen=True)
class Rows:
    """Reads rows of codes with one scale each, which stands for all of the row's groups."""

    name: str
    codes: Stored
    scales: Stored
    groups: int

    def __call__(self, start: int, stop: int) -> Codes:
        return dataclasses.replace(self.parameters(start, stop), codes=self.codes.rows(start, stop))

    def parameters(self, start: int, stop: int) -> Codes:
        scales = self.scales.rows(start, stop).astype(np.float32)
        check_finite(scales, self.name, start)
        return Codes(np.empty((stop - start, 0), np.uint8), np.repeat(scales, self.groups, axis=1))


def matrix(
    node: Any,
    places: Mapping[str, Place],
    shape: tuple[int, ...],
    casts: Mapping[str, str] | None = None,
    skip: str = "",
) -> Packed:
    """The packed matrix of this shape that a MatMulNBits or GatherBlockQuantized node reads.

    casts: output of a Cast -> its input. skip: the ending of zero points that are but the middle, written out.
    """
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    names = list(node.input) + [""] * 4
    name = names[1 if node.op_type == "MatMulNBits" else 0]
    scales, zeros = (casts or {}).get(names[2], names[2]), names[3]
    own = bool(zeros) and not (skip and zeros.endswith(skip))
    (rows, columns), label = shape, name[:80]
    bits, group = numbers.get("bits", 4), numbers.get("block_size", 0)
    if bits not in (4, 8) or group not in (16, 32, 64, 128, 256) or columns % group:
        raise Unsupported(f"{label} has {bits} bits in blocks of {group}, which is not read")
    groups = columns // group

    def part(of: str, dtypes: tuple[str, ...], width: int) -> Stored:
        place = places.get(of)
        if place is None or elements(place.shape) != rows * width or place.dtype.name not in dtypes:
            raise CorruptInput(f"{label}: {of[:80]!r} is not what {rows} x {columns} in {bits} bits needs", _CURE)
        if of == name and place.shape[0] != rows:
            raise CorruptInput(f"{label} has codes of {place.shape[0]} rows, the model {rows}", _CURE)
        return place.matrix(rows)

    factors = part(scales, ("float16", "float32"), groups)
    blocks = Blocks(
        f"the scales of {label}",
        part(name, ("uint8",), columns * bits // 8),
        factors,
        part(zeros, ("uint8",), -(-groups * bits // 8)) if own else None,
        bits,
    )
    kind = "f16" if factors.dtype == np.float16 else "f32"
    chosen = grid(bits, group, kind, zero=None if own else 1 << (bits - 1))
    return Packed(shape, chosen, blocks, blocks.parameters)


def _place(folder: Path, tensor: Any, files: dict[str, tuple[Path, int]]) -> Place:
    """Check an initializer's external data against the file that it names; `files` keeps what was found by location."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, name = entries.get("location", ""), tensor.name[:80]
    if location in ("", ".", "..") or any(sign in location for sign in "/\\:\0"):
        raise CorruptInput(f"{name} lies in {location[:80]!r}, which is no file of this folder", _CURE)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except ValueError:
        raise CorruptInput(f"{name} has a place that is no number", _CURE) from None
    if tensor.data_type not in DTYPES:
        raise CorruptInput(f"{name} has the element type {tensor.data_type}, which slmops does not write", _CURE)
    shape, dtype = tuple(tensor.dims), DTYPES[tensor.data_type]
    if any(size <= 0 for size in shape) or elements(shape) * dtype.itemsize != length:
        raise CorruptInput(f"{name} has {length} bytes, which its shape {list(shape)[:8]} does not make", _CURE)
    if location not in files:
        path = _files.inside(folder, location)
        files[location] = path, path.stat().st_size
    path, size = files[location]
    if offset < 0 or offset + length > size:
        raise CorruptInput(f"{location} ends before {name} does", _CURE)
    return Place(path, offset, shape, dtype)
