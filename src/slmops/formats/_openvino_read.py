"""OpenVINO IR back to a Model, from the file's own words: layers, edges, constants. The numbers in it are hostile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ml_dtypes
import numpy as np

from slmops.core import plugins, receipt, scheme
from slmops.core.errors import CorruptInput, SourceNotFound, UnknownFamily, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Spec
from slmops.core.tensor import Stored, Tensor, elements
from slmops.core.verify import verify
from slmops.formats import _chat, _files, _licence, _tokenizer

MOST_XML = 64 << 20
"""Bytes of an .xml; a model of a hundred layers has 5 MB."""

_CURE = "convert it again"
_DENSE: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
_SCHEMES = {("i4", False): "q4", ("i8", False): "q8", ("u4", True): "q4a"}
"""(element type of the codes, whether there are zero points) -> scheme."""
_CODES = {code for code, _ in _SCHEMES}
_BITS = {"u4": 4, "i4": 4, "u8": 8, "i8": 8, "f16": 16, "bf16": 16, "f32": 32, "i64": 64, "i32": 32, "boolean": 8}


@dataclass(frozen=True)
class Constant:
    """A constant's header, checked against the .bin: the bytes are there and as many as shape and type make."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass
class Layer:
    kind: str
    name: str
    inputs: dict[int, int] = field(default_factory=dict)
    """Port -> the layer that feeds it."""
    constant: Constant | None = None


def read(folder: Path, xml: str, weights: str) -> Model:
    """The model in a folder that holds graph, weights, config and tokenizer."""
    config = _files.read_json(folder, "config.json")
    spec = _spec(config)
    generation = _optional(folder, "generation_config.json")
    tokenizer = _tokenizer.read(folder, config, generation)
    if tokenizer is None:
        raise SourceNotFound(f"{folder} has no tokenizer.json", _CURE)
    path = _files.inside(folder, weights)
    layers = parse(_files.content(folder, xml, MOST_XML), path.stat().st_size)
    held = _weights(path, layers)
    tensors = _by_role(held, plugins.load("architectures", spec.family).names(spec))
    model = Model(
        name=str(_optional(folder, receipt.NAME, receipt.MOST_BYTES).get("name", folder.resolve().name)),
        spec=spec,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=_chat.read(folder),
        config=config,
        generation=generation,
        licence=_licence.read(folder),
        source={"path": str(folder), "files": {weights: path.stat().st_size}},
    )
    verify(model)
    return model


def _optional(folder: Path, name: str, limit: int = _files.LIMIT) -> dict[str, Any]:
    return _files.read_json(folder, name, limit) if _files.there(folder, name) else {}


def _spec(config: Mapping[str, Any]) -> Spec:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in plugins.names("architectures"):
        known = ", ".join(plugins.names("architectures"))
        raise UnknownFamily(f"config.json says model_type {str(family)[:80]!r}", f"known families: {known}")
    try:
        spec: Spec = plugins.load("architectures", family).spec(config)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise CorruptInput(f"config.json cannot be read as {family}: {error!r}"[:300]) from None
    return spec


def parse(content: bytes, limit: int) -> dict[int, Layer]:
    """Layers by id, with their edges; `limit` is the size of the .bin in bytes. No DOCTYPE, so no entities to expand."""
    # The parser is told UTF-8 whatever the file declares, and UTF-16 (which a byte order mark would still turn on) is full
    # of zeros: so this look sees what the parser sees.
    if b"\0" in content or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise CorruptInput("the .xml declares a document type or is not UTF-8, which OpenVINO never writes")
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(encoding="utf-8"))
        layers = {int(item.attrib["id"]): _layer(item, limit) for item in root.iterfind("layers/layer")}
        for edge in root.iterfind("edges/edge"):
            target = layers[int(edge.attrib["to-layer"])]
            source = int(edge.attrib["from-layer"])
            if source not in layers:
                raise CorruptInput(f"an edge of {target.name[:80]} comes from a layer that is not there", _CURE)
            target.inputs[int(edge.attrib["to-port"])] = source
    except (ElementTree.ParseError, KeyError, ValueError, RecursionError) as error:
        raise CorruptInput(f"the .xml is not OpenVINO's IR: {error!r}"[:200], _CURE) from None
    return layers


def _layer(item: ElementTree.Element, limit: int) -> Layer:
    layer = Layer(item.attrib["type"], item.attrib["name"])
    if layer.kind == "Const":
        data = item.find("data")
        if data is None:
            raise CorruptInput(f"the constant {layer.name[:80]} has no place", _CURE)
        text = data.attrib.get("shape", "")
        shape = tuple(int(size) for size in text.split(",")) if text else ()
        offset, nbytes, kind = int(data.attrib["offset"]), int(data.attrib["size"]), data.attrib["element_type"]
        if len(shape) > 8 or min((offset, nbytes, *shape), default=0) < 0 or offset + nbytes > limit:
            raise CorruptInput(f"the constant {layer.name[:80]} lies outside the .bin", _CURE)
        if kind in _BITS and -(-elements(shape) * _BITS[kind] // 8) != nbytes:
            raise CorruptInput(f"the constant {layer.name[:80]} has {nbytes} bytes for {list(shape)} of {kind}", _CURE)
        layer.constant = Constant(layer.name, kind, shape, offset, nbytes)
    return layer


def _weights(path: Path, layers: Mapping[int, Layer]) -> dict[str, Tensor]:
    """Name -> tensor of every matrix and vector: what Multiply(Convert(codes) [- zero], scale) chains give, and the float
    constants that stand in no chain."""
    result: dict[str, Tensor] = {}
    scales: set[int] = set()
    for layer in layers.values():
        if layer.kind == "Multiply" and (chain := _chain(layers, layer)):
            scales.add(id(chain.scales))
            result[chain.codes.name] = _packed(path, chain)
    for layer in layers.values():
        constant = layer.constant
        if constant and constant.type in _DENSE and id(constant) not in scales and constant.shape:
            shape = tuple(size for size in constant.shape if size != 1) if constant.type == "f32" else constant.shape
            result.setdefault(constant.name, Stored(path, constant.offset, shape or (1,), _DENSE[constant.type]))
    return result


@dataclass(frozen=True)
class Chain:
    codes: Constant
    zeros: Constant | None
    scales: Constant


def _chain(layers: Mapping[int, Layer], multiply: Layer) -> Chain | None:
    """What this layer decompresses, or None where it does something else."""
    first, zeros = multiply, None
    subtract = _feeder(layers, multiply, 0)
    if subtract is not None and subtract.kind == "Subtract":
        first, zeros = subtract, _behind_convert(layers, subtract, 1)
        if zeros is None:
            return None
    codes, scales = _behind_convert(layers, first, 0), _feeder(layers, multiply, 1)
    if codes is None or codes.type not in _CODES or scales is None or scales.constant is None:
        return None
    return Chain(codes, zeros, scales.constant)


def _feeder(layers: Mapping[int, Layer], layer: Layer, port: int) -> Layer | None:
    return layers.get(layer.inputs.get(port, -1))


def _behind_convert(layers: Mapping[int, Layer], layer: Layer, port: int) -> Constant | None:
    convert = _feeder(layers, layer, port)
    constant = _feeder(layers, convert, 0) if convert is not None and convert.kind == "Convert" else None
    return constant.constant if constant is not None else None


def _packed(path: Path, chain: Chain) -> Packed:
    """Codes of the one scheme that has this element type, with or without zero points; signed ones are made unsigned."""
    codes, zeros, scales = chain.codes, chain.zeros, chain.scales
    name = _SCHEMES.get((codes.type, zeros is not None))
    if name is None or len(codes.shape) != 3 or scales.shape != (*codes.shape[:2], 1) or scales.type != "f16":
        said = f"{codes.type} codes {list(codes.shape)} with {scales.type} scales {list(scales.shape)}"
        raise Unsupported(f"{codes.name[:80]}: {said}", "only what slmops wrote itself is read back")
    held = scheme.load(name)
    rows, groups, size = codes.shape
    if held.group != size or (zeros is not None and (zeros.type, zeros.shape) != (codes.type, scales.shape)):
        raise Unsupported(f"{codes.name[:80]} has groups of {size}, {name} has {held.group}")
    stored = Stored(path, codes.offset, (rows, groups * size * held.bits // 8), np.dtype(np.uint8))
    factors = Stored(path, scales.offset, (rows, groups), np.dtype(np.float16))
    flip = np.uint8({"i4": 0x88, "i8": 0x80}.get(codes.type, 0))

    def block(start: int, stop: int) -> Codes:
        points = None
        if zeros is not None:
            points = _nibbles(path, zeros.offset, start * groups, stop * groups).reshape(stop - start, groups)
        return Codes(stored.rows(start, stop) ^ flip, factors.rows(start, stop).astype(np.float32), points)

    return Packed((rows, groups * size), held, block)


def _nibbles(path: Path, offset: int, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    first, last = start // 2, -(-stop // 2)
    packed = Stored(path, offset + first, (last - first,), np.dtype(np.uint8)).rows(0, last - first)
    values = np.empty(packed.size * 2, np.uint8)
    values[0::2], values[1::2] = packed & 15, packed >> 4
    return values[start - 2 * first : stop - 2 * first]


def _by_role(held: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    if missing := [name for name in names.values() if name not in held]:
        raise CorruptInput(f"the .xml has no constant called {missing[0]}", _CURE)
    return {role: held[name] for role, name in names.items()}
