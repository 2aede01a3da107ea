"""An ONNX graph back to a Model, from what its own nodes and initializers say. The numbers in them are hostile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, receipt, scheme
from slmops.core.errors import CorruptInput, SourceNotFound, UnknownFamily, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Spec
from slmops.core.tensor import Stored, Tensor, elements
from slmops.core.verify import verify
from slmops.formats import _chat, _files, _tokenizer
from slmops.formats._onnx_graph import BLOCKS, CODES, FLOAT, FLOAT16, UINT8

MOST_PROTO = 64 << 20
"""Bytes of a model.onnx without weights; one of a hundred layers has 2 MB."""
DTYPES: Mapping[int, np.dtype[Any]] = {
    FLOAT: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    UINT8: np.dtype(np.uint8),
}
SCHEMES = ("q4", "q8", "q4a")
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
    """The model in a folder that slmops wrote; config.json is kept in its receipt."""
    facts = receipt.load(folder)
    config, generation = facts.get("config"), facts.get("generation") or {}
    if not isinstance(config, dict) or not isinstance(generation, dict):
        raise CorruptInput(f"{receipt.NAME} does not hold the model's config", _CURE)
    spec = _spec(config)
    tokenizer = _tokenizer.read(folder, config, generation)
    if tokenizer is None:
        raise SourceNotFound(f"{folder} has no tokenizer.json", _CURE)
    proto = parse(_files.content(folder, graph, MOST_PROTO), graph)
    model = Model(
        name=str(facts.get("name") or folder.resolve().name),
        spec=spec,
        tensors=tensors(folder, proto.graph, plugins.load("architectures", spec.family).shapes(spec)),
        tokenizer=tokenizer,
        chat_template=_chat.read(folder),
        config=config,
        generation=generation,
        source={"path": str(folder)},
    )
    verify(model)
    return model


def parse(content: bytes, name: str) -> Any:
    """A ModelProto, checked to be one."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise CorruptInput(f"{name} is not an ONNX model: {error}", _CURE) from None
    return model


def tensors(folder: Path, graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Role -> tensor. A packed matrix is known by the node that reads it, a dense one or a vector by its name alone."""
    places = {tensor.name: _place(folder, tensor) for tensor in graph.initializer if tensor.external_data}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.input and node.output}
    result: dict[str, Tensor] = {}
    for node in graph.node:
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


@dataclass(frozen=True)
class Blocks:
    """Reads rows of codes, scales and zero points from where the graph has them."""

    codes: Stored
    scales: Stored
    zeros: Stored | None

    def __call__(self, start: int, stop: int) -> Codes:
        scales = self.scales.rows(start, stop).astype(np.float32)
        if self.zeros is None:
            return Codes(self.codes.rows(start, stop), scales)
        pairs = self.zeros.rows(start, stop)
        zeros = np.empty((len(pairs), pairs.shape[1] * 2), np.uint8)
        zeros[:, 0::2], zeros[:, 1::2] = pairs & 15, pairs >> 4
        return Codes(self.codes.rows(start, stop), scales, zeros[:, : scales.shape[1]])


def _codes_of(tensor: Tensor) -> Any:
    return tensor.block if isinstance(tensor, Packed) else None


def _packed(
    node: Any, places: Mapping[str, Place], casts: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, Packed]:
    """The matrix that a MatMulNBits or GatherBlockQuantized node reads."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    names = list(node.input) + [""] * 4
    at = 1 if node.op_type == "MatMulNBits" else 0
    name = names[at]
    role = name.removesuffix(BLOCKS).removesuffix(CODES)
    shape = shapes.get(role, ())
    if len(shape) != 2 or name not in places:
        raise CorruptInput(f"a {node.op_type} node reads {name[:80]!r}, which is no weight of this model", _CURE)
    scales, zeros = names[2], names[3]
    scales = casts.get(scales, scales)
    own = zeros.endswith(".zeros")
    found = [
        one
        for one in map(scheme.load, SCHEMES)
        if (one.bits, one.group, one.zero is None) == (numbers.get("bits"), numbers.get("block_size"), own)
    ]
    if not found:
        said = f"{numbers.get('bits')} bits in blocks of {numbers.get('block_size')}"
        raise Unsupported(f"{role} has {said}, which is no scheme of slmops")
    chosen, (rows, columns) = found[0], shape
    groups = columns // chosen.group

    def part(of: str, dtypes: tuple[str, ...], width: int) -> Stored:
        place = places.get(of)
        right = place is not None and place.shape[:1] == (rows,) and elements(place.shape) == rows * width
        if place is None or not right or place.dtype.name not in dtypes:
            raise CorruptInput(f"{role}: {of[:80]!r} is not what {rows} x {columns} in {chosen.name} needs", _CURE)
        return place.matrix(rows)

    blocks = Blocks(
        part(name, ("uint8",), columns * chosen.bits // 8),
        part(scales, ("float16", "float32"), groups),
        part(zeros, ("uint8",), -(-groups // 2)) if own else None,
    )
    return role, Packed(shape, chosen, blocks)


def _place(folder: Path, tensor: Any) -> Place:
    """Check an initializer's external data against the file that it names."""
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
    path = _files.inside(folder, location)
    if offset < 0 or offset + length > path.stat().st_size:
        raise CorruptInput(f"{location} ends before {name} does", _CURE)
    return Place(path, offset, shape, dtype)


def _spec(config: Mapping[str, Any]) -> Spec:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in plugins.names("architectures"):
        raise UnknownFamily(f"the receipt says model_type {str(family)[:80]!r}")
    try:
        spec: Spec = plugins.load("architectures", family).spec(config)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise CorruptInput(f"the receipt's config cannot be read as {family}: {error!r}"[:300]) from None
    return spec
