"""ONNX as ONNX Runtime GenAI and Foundry Local take it: a graph, its weights beside it, genai_config.json, tokenizer.

model.onnx          what runs: logits of the last position
logits.onnx         the same over the same weights: logits of every position, for measuring
model.onnx.data     the weights
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, roles
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.layout import Layout
from slmops.core.model import Model, Weights
from slmops.core.scheme import Packed, Scheme, stored_as
from slmops.core.spec import Spec
from slmops.formats import _files, _forms, _lora, _onnx_genai, _onnx_read
from slmops.formats._onnx_data import DATA, FLOAT, FLOAT16, INT64
from slmops.formats._onnx_graph import Graph, Wire
from slmops.quantize._affine import Affine, grid
from slmops.quantize.w8a8 import ByRow

TITLE = "ONNX Runtime GenAI"
DENSE = ("f32", "f16")
FLOATS = ("f32", "f16", "bf16")
MIXES = ("q4", "q4a", "q8")
NATIVE = ("w8a8",)
MODEL, LOGITS = "model.onnx", "logits.onnx"


TABLES = 16384
"""Rows of rotation tables that weights() has computed: more than any original context of longrope here."""


def detect(path: Path) -> bool:
    """A folder with genai_config.json and model.onnx."""
    return path.is_dir() and _files.there(path, "genai_config.json") and _files.there(path, MODEL)


def read(path: Path) -> Model:
    """The model in this folder. Raises SourceNotFound, CorruptInput or Unsupported; opens no weight."""
    return _onnx_read.read(path, MODEL)


BLOCKS = (256, 128, 64, 32, 16)


def support(spec: Spec) -> None:
    """Raise Unsupported for what the operators cannot compute."""
    if spec.head_dim % 16 or spec.rope.dim % 16:
        raise Unsupported(
            f"ONNX Runtime's attention rotates multiples of 16 elements, this model {spec.rope.dim} of {spec.head_dim}",
            "use another format: gguf or openvino",
        )


def forms(held: Scheme, *, half: bool) -> list[Scheme]:
    """4 or 8 bits in blocks of a power of two, codes around the middle where that holds them; scales in f16, or where the
    graph does not compute in `half`, f32."""
    groups = [size for size in BLOCKS if isinstance(held, Affine) and held.group % size == 0]
    if not isinstance(held, Affine) or not groups:
        return []
    widths = [bits for bits in (4, 8) if bits >= held.bits]
    scales = ("f16",) if half else ("f16", "f32")
    symmetric: list[Scheme] = [grid(b, groups[0], scale, zero=1 << (b - 1)) for b in widths[:1] for scale in scales]
    return [*symmetric, *(grid(bits, groups[0], scale) for bits in widths for scale in scales)]


def plan(model: Model, *, provider: str = "cpu", max_length: int | None = None) -> Layout:
    """Every byte's place, and the graph over it.

    provider: cpu | cuda | dml | qnn, written to genai_config.json; all but cpu compute in float16 (f32 weights excepted).
    max_length: default length of a conversation for which the KV cache is allocated, at most the model's context.
    """
    spec = model.spec
    _onnx_genai.check_provider(provider)
    support(spec)
    stored = {role: stored_as(tensor) for role, tensor in model.tensors.items() if len(tensor.shape) == 2}
    packed = any(isinstance(tensor, Packed) for tensor in model.tensors.values())
    # A matrix that a packed model could not pack stays as it was: bf16 is then kept as f32, which is exact.
    if not packed and "bf16" in stored.values():
        raise Unsupported("ONNX Runtime does not compute with bf16 on every device", f"one of: {', '.join(DENSE)}, q4, q8")
    single = provider == "cpu" or set(stored.values()) == {"f32"}
    # The embedding is looked up, and shares its codes with a tied head: it stays in blocks, and an untied head beside it.
    by_row = [
        role
        for role, tensor in model.tensors.items()
        if single and isinstance(tensor, Packed) and isinstance(tensor.scheme, ByRow) and roles.layer(role) is not None
    ]
    source, model = model, _forms.fitted(model, TITLE, lambda scheme: forms(scheme, half=not single), by_row)
    graph = Graph(
        model.tensors,
        spec.context,
        activations="float32" if single else "float16",
        accuracy=4 if provider == "cpu" else 0,
        rotates=provider != "dml",
        changed=model.adapter.pairs if model.adapter else {},
    )
    graph.inputs["input_ids"] = (INT64, ("batch_size", "sequence_length"))
    graph.inputs["attention_mask"] = (INT64, ("batch_size", "total_sequence_length"))
    plugins.load("architectures", spec.family).forward(graph, spec, Weights(model.tensors), Wire("input_ids"))
    facts = _onnx_genai.config(model, provider, graph.inputs, max_length)
    files = {
        MODEL: graph.proto(model.name, last=True),
        LOGITS: graph.proto(model.name, last=False),
        "genai_config.json": _onnx_genai.dump(facts),
        **_onnx_genai.tokenizer_files(model),
    }
    foundry, notes = _onnx_genai.foundry(model)
    notes += _onnx_genai.tokenizer_notes(model)
    notes += [
        f"{role} stays in {kind}: its rows do not divide into groups"
        for role, kind in stored.items()
        if packed and kind in FLOATS
    ]
    if provider != "cpu":
        notes.append(f"made for the provider {provider}: logits are proven on the processor only")
    return Layout(
        format="onnx",
        sizes={DATA: graph.data.size},
        literals=tuple(graph.data.literals),
        regions={role: tuple(regions) for role, regions in graph.data.regions.items()},
        files={**files, **foundry},
        side_jobs=(_lora.onnx(model.adapter, np.dtype(graph.activations)),) if model.adapter else (),
        forms=_forms.changed(source, model),
        notes=tuple(notes),
    )


def adapter(model: Model, base: Path, out: Path) -> Path:
    """Write the model's adapter alone, for the base that is served; `out` is an empty folder. Returns its file.

    Raises Unsupported where the base's graph has no inputs for it."""
    assert model.adapter is not None
    graph = _onnx_read.parse(_files.content(base, MODEL, _onnx_read.MOST_PROTO), MODEL).graph
    inputs = {one.name: one.type.tensor_type.elem_type for one in graph.input}
    if missing := [role for role in model.adapter.pairs if role + _lora.A not in inputs]:
        raise Unsupported(
            f"the graph of {base.name} takes no adapter on {missing[0]}",
            "convert the base for it: slmops convert MODEL --adapter FOLDER --beside --to onnx",
        )
    half = FLOAT16 in {inputs[role + _lora.A] for role in model.adapter.pairs}
    _lora.onnx(model.adapter, np.dtype(np.float16 if half else np.float32))(out)
    return out / _lora.ONNX_FILE


def weights(model: Model) -> int:
    """Bytes of model.onnx.data: what plan() lays out (for predictions). The rotation tables of a long context are counted on
    from two shorter ones, for to compute them takes longer than all the rest."""
    spec = model.spec
    if spec.context <= 3 * TABLES or spec.rope.original_context >= TABLES:
        return sum(plan(model).sizes.values())
    some, more = (
        sum(plan(dataclasses.replace(model, spec=dataclasses.replace(spec, context=rows))).sizes.values())
        for rows in (TABLES, 2 * TABLES)
    )
    return some + (spec.context - TABLES) * (more - some) // TABLES


def tables(spec: Spec) -> int:
    """Bytes of the rotation tables of the whole context in model.onnx.data, of which only the positions in use are read."""
    each = {(rope, far) for rope in (spec.ropes or (spec.rope,)) if rope for far in (False, rope.scaling == "longrope")}
    return sum(spec.context * rope.dim * 4 for rope, _ in each)


def twin(folder: Path, target: Path) -> Path:
    """A proof copy: the same weights (linked where the disk can), computed in f32 without rounding activations to 8 bits.

    Only where that rounding is left out do logits show whether the graph computes what the reference computes.
    """
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted(folder.iterdir()):
        if source.name in (MODEL, LOGITS):
            model = _onnx_read.parse(_files.content(folder, source.name, _onnx_read.MOST_PROTO), source.name)
            _compute_in_f32(model.graph)
            (target / source.name).write_bytes(model.SerializeToString())
        elif source.is_file():
            _link(source, target / source.name)
    if not (target / MODEL).exists():
        raise CorruptInput(f"{folder} has no {MODEL}", "convert it again")
    return target


def _compute_in_f32(graph: Any) -> None:
    """No activations of 8 bits; where the graph computes in f16, f16 weights are cast and every value is f32."""
    from onnx import helper

    for node in [node for node in graph.node if node.op_type == "DynamicQuantizeMatMul"]:
        x, matrix, scales, zero = node.input
        plain = [(part, f"{node.name}/{part}.f32") for part in (matrix, zero)]
        steps = [helper.make_node("Cast", [part], [cast], f"{cast}/Cast", to=FLOAT) for part, cast in plain]
        names = [f"{node.name}/moved", f"{node.name}/numbers"]
        steps.append(helper.make_node("Sub", [cast for _, cast in plain], names[:1], f"{names[0]}/Sub"))
        steps.append(helper.make_node("Mul", [names[0], scales], names[1:], f"{names[1]}/Mul"))
        steps.append(helper.make_node("MatMul", [x, names[1]], node.output, f"{node.name}/MatMul"))
        place = next(index for index, one in enumerate(graph.node) if one.name == node.name)
        del graph.node[place]
        for step in reversed(steps):
            graph.node.insert(place, step)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 0
            if node.op_type == "Cast" and attribute.i == FLOAT16:
                attribute.i = FLOAT
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == FLOAT16:
            value.type.tensor_type.elem_type = FLOAT
    half = {tensor.name: tensor.name + ".f32" for tensor in graph.initializer if tensor.data_type == FLOAT16}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = half.get(name, name)
    for index, (name, cast) in enumerate(half.items()):
        graph.node.insert(index, helper.make_node("Cast", [name], [cast], f"{cast}/Cast", to=FLOAT))


def _link(source: Path, copy: Path) -> None:
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)
