"""OpenVINO IR back to a Model, from the file's own words: layers, edges, constants. The numbers in it are hostile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ml_dtypes
import numpy as np

from slmops.core import plugins, receipt, roles
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Spec
from slmops.core.tensor import Bytes, Stored, Tensor, elements, shifted
from slmops.core.verify import verify
from slmops.formats import _chat, _files, _licence, _tokenizer
from slmops.formats._openvino_ir import BY_ROW
from slmops.quantize import w8a8
from slmops.quantize._affine import grid
from slmops.quantize._cast import check_finite

MOST_XML = 16 << 20
"""Bytes of an .xml; a model of a hundred layers has 10 MB."""
MOST_TAGS = 500_000
"""Tags of an .xml: 28 layers have 124,000, and each takes 100 bytes of memory or more."""

_CURE = "convert it again"
_DENSE: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = ("i4", "i8", "u4", "u8")
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
    levels: int = 0
    """Of a FakeQuantize."""


def read(folder: Path, xml: str, weights: str) -> Model:
    """The model in a folder that holds graph, weights, config and tokenizer."""
    config = _files.read_json(folder, "config.json")
    spec = specs.from_config(config)
    generation = _optional(folder, "generation_config.json")
    tokenizer = _tokenizer.read(folder, config, generation)
    if tokenizer is None:
        raise SourceNotFound(f"{folder} has no tokenizer.json", _CURE)
    path = _files.inside(folder, weights)
    layers = parse(_files.content(folder, xml, MOST_XML), path.stat().st_size)
    held = _weights(path, layers)
    names: Mapping[str, str] = plugins.load("architectures", spec.family).names(spec)
    tensors = _by_role(held, names, spec)
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
        steps=_steps(path, layers, {name: role for role, name in names.items()}),
    )
    verify(model)
    return model


def _optional(folder: Path, name: str, limit: int = _files.LIMIT) -> dict[str, Any]:
    return _files.read_json(folder, name, limit) if _files.there(folder, name) else {}


def parse(content: bytes, limit: int) -> dict[int, Layer]:
    """Layers by id, with their edges; `limit` is the size of the .bin in bytes. No DOCTYPE, so no entities to expand."""
    # The parser is told UTF-8 whatever the file declares, and UTF-16 (which a byte order mark would still turn on) is full
    # of zeros: so this look sees what the parser sees.
    if b"\0" in content or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise CorruptInput("the .xml declares a document type or is not UTF-8, which OpenVINO never writes")
    if content.count(b"<") > MOST_TAGS:
        raise CorruptInput(f"the .xml has more than {MOST_TAGS:,} tags, which no model of this kind does", _CURE)
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
    layer, data = Layer(item.attrib["type"], item.attrib["name"]), item.find("data")
    if layer.kind == "FakeQuantize" and data is not None:
        layer.levels = int(data.attrib["levels"])
    if layer.kind == "Const":
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
            # Vectors lie along the last axis of a broadcast shape.
            vector = len(constant.shape) > 2 or constant.shape[0] == 1
            shape = tuple(size for size in constant.shape if size != 1) if vector else constant.shape
            result.setdefault(constant.name, Stored(path, constant.offset, shape or (1,), _DENSE[constant.type]))
    theirs = checkpoint_names(layers)
    return {theirs.get(name, name): tensor for name, tensor in result.items()}


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
    if codes is None or codes.type not in _CODES or scales is None:
        return None
    factors = scales.constant or _behind_convert(layers, multiply, 1)
    return Chain(codes, zeros, factors) if factors is not None else None


def _feeder(layers: Mapping[int, Layer], layer: Layer, port: int) -> Layer | None:
    return layers.get(layer.inputs.get(port, -1))


def _behind_convert(layers: Mapping[int, Layer], layer: Layer, port: int) -> Constant | None:
    """The constant behind a Convert; or behind a Gather before it, which looks rows of codes up."""
    convert = _feeder(layers, layer, port)
    constant = _feeder(layers, convert, 0) if convert is not None and convert.kind == "Convert" else None
    if constant is not None and constant.kind == "Gather":
        constant = _feeder(layers, constant, 0)
    return constant.constant if constant is not None else None


def _steps(path: Path, layers: Mapping[int, Layer], roles_of: Mapping[str, str]) -> dict[str, float]:
    """Role -> step of a matrix whose input a FakeQuantize rounds to -128 to 127 steps. Raises Unsupported where one rounds
    otherwise, which what is read could not say."""
    fed: dict[int, list[Layer]] = {number: [] for number, layer in layers.items() if layer.kind == "FakeQuantize"}
    for layer in layers.values():
        for source in layer.inputs.values():
            if source in fed:
                fed[source].append(layer)
    result: dict[str, float] = {}
    for number, readers in fed.items():
        step = _step(path, layers, layers[number])
        held = [_multiplied(layers, reader, number) for reader in readers]
        if step is None or not all(name in roles_of for name in held):
            said = f"{layers[number].name[:80]} rounds in another way than the inputs of matrices to steps of 8 bits"
            raise Unsupported(said, "export the model with rounded weights alone")
        result |= {roles_of[str(name)]: step for name in held}
    return result


def _step(path: Path, layers: Mapping[int, Layer], layer: Layer) -> float | None:
    """The step of a FakeQuantize from -128 to 127 steps, or None where it is another."""
    feeders = [_feeder(layers, layer, port) for port in range(1, 5)]
    edges = [one.constant for one in feeders if one is not None and one.constant is not None]
    if len(edges) < 4 or layer.levels != 256 or any(one.type != "f32" or elements(one.shape) != 1 for one in edges):
        return None
    low, high, *again = [float(Stored(path, one.offset, (1,), _DENSE["f32"]).rows(0, 1)[0]) for one in edges]
    step = -low / 128  # exact: a power of two
    return step if 0 < step < np.inf and again == [low, high] and abs(high / step - 127) < 1e-4 else None


def _multiplied(layers: Mapping[int, Layer], matmul: Layer, source: int) -> str | None:
    """Name of the codes by which this layer multiplies what comes from `source`."""
    convert = _feeder(layers, matmul, 1) if matmul.kind == "MatMul" and matmul.inputs.get(0) == source else None
    multiply = _feeder(layers, convert, 0) if convert is not None and convert.kind == "Convert" else None
    chain = _chain(layers, multiply) if multiply is not None else None
    return chain.codes.name if chain is not None else None


def _packed(path: Path, chain: Chain) -> Packed:
    """Codes as they are; signed ones are made unsigned. Unsigned ones without zero points count from zero."""
    codes, zeros, scales = chain.codes, chain.zeros, chain.scales
    bits, signed = int(codes.type[1:]), codes.type[0] == "i"
    plain = codes.shape if len(codes.shape) == 3 else (*codes.shape[:1], 1, *codes.shape[1:])
    right = len(plain) == 3 and elements(scales.shape) == plain[0] * plain[1] and scales.type in ("f16", "f32")
    if not right or (signed and zeros is not None):
        said = f"{codes.type} codes {list(codes.shape)} with {scales.type} scales {list(scales.shape)}"
        raise Unsupported(f"{codes.name[:80]}: {said}: not the form that NNCF writes", "export it with group-wise weights")
    rows, groups, size = plain
    one = zeros is not None and elements(zeros.shape) == 1
    if zeros is not None and (zeros.type != codes.type or (not one and elements(zeros.shape) != rows * groups)):
        raise Unsupported(f"{codes.name[:80]} has zero points {zeros.type} {list(zeros.shape)}")
    constant = 1 << (bits - 1) if signed else 0 if zeros is None else None
    if one and zeros is not None:
        constant = int(_points(path, zeros, bits, 0, 1)[0])
    held = grid(bits, size, scales.type, zero=constant)
    stored = Stored(path, codes.offset, (rows, groups * size * bits // 8), np.dtype(np.uint8))
    factors = Stored(path, scales.offset, (rows, groups), _DENSE[scales.type])
    repeated = 1
    if scales.name == codes.name + BY_ROW:
        held = w8a8.SCHEME
        if not signed or bits != 8 or groups != 1 or size % held.group:
            raise CorruptInput(f"{codes.name[:80]} is not held as w8a8 is", _CURE)
        repeated = size // held.group
    flip = np.uint8((0x88 if bits == 4 else 0x80) if signed else 0)

    def parameters(start: int, stop: int) -> Codes:
        scale = factors.rows(start, stop).astype(np.float32)
        check_finite(scale, f"the scales of {codes.name[:80]}", start)
        points = None
        if zeros is not None and not one:
            points = _points(path, zeros, bits, start * groups, stop * groups).reshape(stop - start, groups)
        return Codes(np.empty((stop - start, 0), np.uint8), np.repeat(scale, repeated, axis=1), points)

    def block(start: int, stop: int) -> Codes:
        return dataclasses.replace(parameters(start, stop), codes=stored.rows(start, stop) ^ flip)

    return Packed((rows, groups * size), held, block, parameters)


def _points(path: Path, zeros: Constant, bits: int, start: int, stop: int) -> Bytes:
    """Zero points start..stop of a constant of u4 or u8, one a byte."""
    if bits == 8:
        return Stored(path, zeros.offset + start, (stop - start,), np.dtype(np.uint8)).rows(0, stop - start)
    first, last = start // 2, -(-stop // 2)
    packed = Stored(path, zeros.offset + first, (last - first,), np.dtype(np.uint8)).rows(0, last - first)
    values = np.empty(packed.size * 2, np.uint8)
    values[0::2], values[1::2] = packed & 15, packed >> 4
    return values[start - 2 * first : stop - 2 * first]


def _by_role(held: Mapping[str, Tensor], names: Mapping[str, str], spec: Spec) -> dict[str, Tensor]:
    if missing := [name for name in names.values() if name not in held]:
        raise CorruptInput(f"the .xml has no constant called {missing[0]}", _CURE)
    # Norm weights stand in the graph as they multiply; a checkpoint keeps them without the family's offset.
    offsets = {role: -spec.norm_offset if roles.is_norm(role) else 0.0 for role in names}
    return {role: shifted(held[name], offsets[role]) for role, name in names.items()}


def checkpoint_names(layers: Mapping[int, Layer]) -> dict[str, str]:
    """Name of a constant in an export of optimum-intel -> its name in the checkpoint.

    Matrices keep theirs (self.model.layers.0.mlp.up_proj.weight, or ..._openvino_orig_weight where NNCF compressed it);
    vectors have none, but the layer that reads them has the module's path:
    __module.model.layers.0.input_layernorm/aten::mul/Multiply_1.
    """
    result: dict[str, str] = {}
    for layer in layers.values():
        if layer.constant is not None and layer.name.startswith("self."):
            module, _, leaf = layer.name.removeprefix("self.").rpartition(".")
            if leaf in ("weight", "_openvino_orig_weight"):
                result[layer.name] = f"{module}.weight"
        if layer.kind not in ("Multiply", "Add") or not layer.name.startswith("__module."):
            continue
        module = layer.name.removeprefix("__module.").partition("/")[0]
        for port in layer.inputs:
            feeder = _feeder(layers, layer, port)
            if feeder is not None and feeder.kind == "Convert":
                feeder = _feeder(layers, feeder, 0)
            constant = feeder.constant if feeder is not None else None
            if constant is not None and len(constant.shape) > 1 and elements(constant.shape) > 1:
                result[constant.name] = f"{module}.{'weight' if layer.kind == 'Multiply' else 'bias'}"
    return result
