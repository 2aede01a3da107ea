"""ONNX Runtime GenAI folders that its own model builder made: names of nodes and initializers -> config and tensors.

The builder (onnxruntime_genai/models/builder.py) keeps the checkpoint's structure in its names: the node
`/model/layers.3/attn/q_proj/MatMul_Q4` reads `model.layers.3.attn.q_proj.MatMul.weight_Q4`. Query, key and value may be one
matrix, whose rows are cut; sizes and ids stand in genai_config.json, the rotation in the tables cos_cache and sin_cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, roles
from slmops.core.errors import CorruptInput, UnknownFamily, Unsupported
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Rope, Spec
from slmops.core.tensor import DTYPES, Lazy, Stored, Tensor
from slmops.formats import _files
from slmops.formats._columns import turned
from slmops.formats._onnx_read import Place, matrix

CONFIG = "genai_config.json"
MODULES = {
    "attention.query": "attn.q_proj",
    "attention.key": "attn.k_proj",
    "attention.value": "attn.v_proj",
    "attention.output": "attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
NORMS = {
    "attention.norm": "input_layernorm",
    "attention.query_norm": "attn.q_norm.layernorm",
    "attention.key_norm": "attn.k_norm.layernorm",
    "mlp.norm": "post_attention_layernorm",
}
PARTS = ("attention.query", "attention.key", "attention.value")
FUSED = "attn.qkv_proj"
LLAMA3 = (8.0, 32.0)
"""Factors of the published Llamas' scaling, which the tables alone would tell only roughly."""


@dataclass(frozen=True)
class Graph:
    """What of a ModelProto's graph is needed here."""

    places: Mapping[str, Place]
    nodes: Mapping[str, Any]
    """Node by name."""


def config(folder: Path, graph: Graph) -> dict[str, Any]:
    """config.json as far as a program needs it, from genai_config.json and the graph."""
    said = _files.read_json(folder, CONFIG).get("model")
    said = said if isinstance(said, dict) else {}
    decoder = said.get("decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
    family = str(said.get("type"))
    if family not in plugins.names("architectures"):
        known = ", ".join(plugins.names("architectures"))
        raise UnknownFamily(f"{CONFIG} says the type {family[:60]!r}", f"known families: {known}")
    gate = _rows_of(graph, "model.layers.0.mlp.gate_proj")
    last = graph.nodes.get(f"/model/layers.{decoder.get('num_hidden_layers')}/final_norm_layernorm/SkipLayerNorm")
    last = last or graph.nodes.get("/model/layers.0/input_layernorm/LayerNorm")
    eps = next((one.f for one in last.attribute if one.name == "epsilon"), None) if last is not None else None
    if gate is None or eps is None:
        raise Unsupported(
            "this graph is not as ONNX Runtime GenAI's builder writes it", "give the checkpoint it was made from"
        )
    result = {
        "model_type": family,
        "vocab_size": said.get("vocab_size"),
        "hidden_size": decoder.get("hidden_size"),
        "intermediate_size": gate,
        "num_hidden_layers": decoder.get("num_hidden_layers"),
        "num_attention_heads": decoder.get("num_attention_heads"),
        "num_key_value_heads": decoder.get("num_key_value_heads"),
        "head_dim": decoder.get("head_size"),
        "max_position_embeddings": said.get("context_length"),
        "rms_norm_eps": float(str(np.float32(eps))),
        "hidden_act": "silu",
        "tie_word_embeddings": _tied(graph),
        "attention_bias": any(f"model.layers.0.{one}.Add.bias" in graph.places for one in (FUSED, "attn.q_proj")),
        "bos_token_id": said.get("bos_token_id"),
        "eos_token_id": said.get("eos_token_id"),
        "pad_token_id": said.get("pad_token_id"),
    }
    return {**result, **_rotation(graph, decoder.get("head_size"))}


def _tied(graph: Graph) -> bool:
    """Whether the embedding's lookup reads the head's matrix, through a Reshape."""
    reshape = graph.nodes.get("/model/embed_tokens/Reshape")
    if reshape is not None and reshape.input and reshape.input[0].startswith("lm_head."):
        return True
    return not any(name.startswith("lm_head.") for name in graph.places)


def _rows_of(graph: Graph, module: str) -> int | None:
    """Outputs of a module's matrix, packed [N, ..] or plain [inputs, N]."""
    for name, place in graph.places.items():
        if name.startswith(f"{module}.MatMul.weight"):
            return place.shape[1] if name.endswith(".weight") else place.shape[0]
    return None


def _rotation(graph: Graph, head_dim: Any) -> dict[str, Any]:
    """rope_theta, and the scaling where there is one: the tables' second row holds the angle of one position."""
    tables = [graph.places.get(f"{part}_cache") for part in ("cos", "sin")]
    if tables[0] is None or tables[1] is None or not isinstance(head_dim, int):
        raise Unsupported("the graph has no tables cos_cache and sin_cache", "give the checkpoint that it was made from")
    if any(len(table.shape) != 2 or table.shape[0] < 2 or table.shape[1] != head_dim // 2 for table in tables if table):
        raise Unsupported("the tables cos_cache and sin_cache are not those of whole heads")
    cos, sin = (table.matrix(table.shape[0]).rows(1, 2)[0].astype(np.float64) for table in tables if table)
    angles = np.arctan2(sin, cos)
    if len(angles) < 2 or not 0 < angles[1] < 1:
        raise CorruptInput("the tables cos_cache and sin_cache hold no rotation")
    # The second pair turns by theta^(-2 / dim), and no known scaling touches it.
    theta = float(f"{angles[1] ** (-head_dim / 2):.4g}")
    plain = Rope(head_dim, theta)
    if _same(plain, angles):
        return {"rope_theta": theta}
    for factor in LLAMA3:
        scaled = replace(
            plain, scaling="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
        )
        if _same(scaled, angles):
            said = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            return {"rope_theta": theta, "rope_scaling": {**said, "original_max_position_embeddings": 8192}}
    raise Unsupported("the tables cos_cache and sin_cache follow no known rotation", "give the checkpoint it was made from")


def _same(rope: Rope, angles: Any) -> bool:
    return bool(np.allclose(rope.frequencies(), angles, rtol=2e-3, atol=1e-7))


def tensors(graph: Graph, spec: Spec) -> dict[str, Tensor]:
    """Role -> tensor, in the order of the family's roles."""
    shapes: dict[str, tuple[int, ...]] = plugins.load("architectures", spec.family).shapes(spec)
    result: dict[str, Tensor] = {}
    for role, shape in shapes.items():
        found = _vector(graph, role, shape, spec) if len(shape) == 1 else _matrix(graph, role, shape, spec)
        if found.shape != shape:
            raise CorruptInput(f"{role} is {list(found.shape)} in the graph, {list(shape)} by {CONFIG}")
        result[role] = found
    return result


def _vector(graph: Graph, role: str, shape: tuple[int, ...], spec: Spec) -> Tensor:
    kind, layer = roles.kind(role), roles.layer(role)
    if role == "norm":
        return _plain(graph, f"model.layers.{spec.layers}.final_norm_layernorm.weight")
    if kind in NORMS:
        return _plain(graph, f"model.layers.{layer}.{NORMS[kind]}.weight")
    module = kind.removesuffix(".bias")
    name = f"model.layers.{layer}.{MODULES[module]}.Add.bias"
    if name in graph.places or module not in PARTS:
        return _plain(graph, name)
    fused = _plain(graph, f"model.layers.{layer}.{FUSED}.Add.bias")
    start = _start(module, spec)
    return Lazy(shape, fused.dtype, lambda first, last: fused.rows(start + first, start + last))


def _plain(graph: Graph, name: str) -> Tensor:
    place = graph.places.get(name)
    if place is None or place.dtype == np.uint8:
        raise Unsupported(f"the graph has no {name}", "only graphs of ONNX Runtime GenAI's builder are read")
    return Stored(place.path, place.offset, place.shape, place.dtype)


def _start(part: str, spec: Spec) -> int:
    """The first row of query, key or value in the fused matrix."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    return {"attention.query": 0, "attention.key": queries, "attention.value": queries + keys}[part]


def _matrix(graph: Graph, role: str, shape: tuple[int, ...], spec: Spec) -> Tensor:
    kind, layer = roles.kind(role), roles.layer(role)
    if role == "embedding" and "model.embed_tokens.weight" in graph.places:
        return _plain(graph, "model.embed_tokens.weight")
    if role in ("embedding", "head"):
        gather = graph.nodes.get("/model/embed_tokens/GatherBlockQuantized")
        own = role == "embedding" and not spec.tied and gather is not None
        return matrix(gather, graph.places, shape) if own else _named(graph, "lm_head", "/lm_head", shape)
    module = f"model.layers.{layer}.{MODULES[kind]}"
    if kind not in PARTS or _rows_of(graph, module) is not None:
        return _named(graph, module, f"/model/layers.{layer}/{MODULES[kind].replace('.', '/')}", shape)
    width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    whole = _named(graph, f"model.layers.{layer}.{FUSED}", f"/model/layers.{layer}/attn/qkv_proj", (width, shape[1]))
    return _rows(whole, _start(kind, spec), shape)


def _named(graph: Graph, module: str, node: str, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a module: a MatMulNBits node's, or a plain [inputs, outputs] one, which is turned."""
    for name, found in graph.nodes.items():
        if found.op_type == "MatMulNBits" and name.startswith(f"{node}/MatMul"):
            return matrix(found, graph.places, shape)
    place = graph.places.get(f"{module}.MatMul.weight")
    if place is None or place.shape != shape[::-1] or place.dtype not in DTYPES.values():
        raise Unsupported(f"the graph has no matrix for {module}", "only graphs of ONNX Runtime GenAI's builder are read")
    stored = Stored(place.path, place.offset, place.shape, place.dtype)
    return Lazy(shape, place.dtype, lambda first, last: turned(stored, first, last))


def _rows(whole: Tensor, start: int, shape: tuple[int, ...]) -> Tensor:
    """Some rows of a tensor as one of its own."""
    if not isinstance(whole, Packed):
        return Lazy(shape, whole.dtype, lambda first, last: whole.rows(start + first, start + last))
    parameters = whole.parameters

    def of(read: Any) -> Any:
        def rows(first: int, last: int) -> Codes:
            block: Codes = read(start + first, start + last)
            return block

        return rows

    return Packed(shape, whole.scheme, of(whole.block), of(parameters) if parameters else None)


def check(spec: Spec) -> None:
    """Raise Unsupported for families whose graphs have other parts than those that are named here."""
    if spec.fused or spec.norm_offset or spec.ropes or not math.isclose(spec.score_scale, spec.head_dim**-0.5):
        raise Unsupported(f"ONNX graphs of {spec.family} are not read", "give the checkpoint that it was made from")
