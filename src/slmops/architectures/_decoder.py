"""The program that most families share: pre-norm decoder, grouped attention, gated MLP; and how config.json is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Weights
from slmops.core.spec import Rope, Spec
from slmops.ops import Ops, Value


def attend(ops: Ops[Value], spec: Spec, number: int, query: Value, key: Value, value: Value) -> Value:
    """Attention of one layer, as the spec has it."""
    return ops.attention(
        query,
        key,
        value,
        layer=number,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        rope=spec.rotation(number),
        window=spec.window(number),
        scale=spec.score_scale,
        cap=spec.attention_cap,
    )


def forward(ops: Ops[Value], spec: Spec, w: Weights, ids: Value) -> Value:
    """Logits of every position."""
    x = ops.embed(w("embedding"), ids)
    for number in range(spec.layers):
        layer = w.layer(number)
        h = ops.norm(x, layer("attention.norm"), spec.norm_eps)
        if spec.fused:
            keys = spec.kv_heads * spec.head_dim
            fused = ops.linear(h, layer("attention.query_key_value"))
            query, key, value = ops.split(fused, (spec.heads * spec.head_dim, keys, keys))
        else:
            query = ops.linear(h, layer("attention.query"), layer.get("attention.query.bias"))
            key = ops.linear(h, layer("attention.key"), layer.get("attention.key.bias"))
            value = ops.linear(h, layer("attention.value"), layer.get("attention.value.bias"))
        if spec.head_norm:
            query = ops.norm(query, layer("attention.query_norm"), spec.norm_eps, heads=spec.heads)
            key = ops.norm(key, layer("attention.key_norm"), spec.norm_eps, heads=spec.kv_heads)
        attended = attend(
            ops,
            spec,
            number,
            query,
            key,
            value,
        )
        x = ops.add(x, ops.linear(attended, layer("attention.output"), layer.get("attention.output.bias")))
        h = ops.norm(x, layer("mlp.norm"), spec.norm_eps)
        if spec.fused:
            gate, up = ops.split(ops.linear(h, layer("mlp.gate_up")), (spec.intermediate, spec.intermediate))
        else:
            gate = ops.linear(h, layer("mlp.gate"), layer.get("mlp.gate.bias"))
            up = ops.linear(h, layer("mlp.up"), layer.get("mlp.up.bias"))
        x = ops.add(x, ops.linear(ops.gated(gate, up, "silu"), layer("mlp.down"), layer.get("mlp.down.bias")))
    return ops.head(ops.norm(x, w("norm"), spec.norm_eps), w.get("head") or w("embedding"))


APART = (
    ("attention.query", "self_attn.q_proj", "attention_bias"),
    ("attention.key", "self_attn.k_proj", "attention_bias"),
    ("attention.value", "self_attn.v_proj", "attention_bias"),
    ("attention.output", "self_attn.o_proj", "output_bias"),
    ("mlp.gate", "mlp.gate_proj", "mlp_bias"),
    ("mlp.up", "mlp.up_proj", "mlp_bias"),
    ("mlp.down", "mlp.down_proj", "mlp_bias"),
)
FUSED = (
    ("attention.query_key_value", "self_attn.qkv_proj", ""),
    ("attention.output", "self_attn.o_proj", ""),
    ("mlp.gate_up", "mlp.gate_up_proj", ""),
    ("mlp.down", "mlp.down_proj", ""),
)
"""Matrices of a layer: role, name in the checkpoint, and what in the spec says whether it has a bias."""


def names(spec: Spec) -> dict[str, str]:
    """Role -> checkpoint name, in checkpoint order."""
    result = {"embedding": "model.embed_tokens.weight"}
    for number in range(spec.layers):
        role, name = f"layers.{number}.", f"model.layers.{number}."
        result[role + "attention.norm"] = name + "input_layernorm.weight"
        for ours, theirs, flag in FUSED if spec.fused else APART:
            result[role + ours] = name + theirs + ".weight"
            if flag and getattr(spec, flag):
                result[f"{role}{ours}.bias"] = name + theirs + ".bias"
        if spec.head_norm:
            result[role + "attention.query_norm"] = name + "self_attn.q_norm.weight"
            result[role + "attention.key_norm"] = name + "self_attn.k_norm.weight"
        result[role + "mlp.norm"] = name + "post_attention_layernorm.weight"
    result["norm"] = "model.norm.weight"
    if not spec.tied:
        result["head"] = "lm_head.weight"
    return result


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Role -> the shape it must have."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    by_kind: dict[str, tuple[int, ...]] = {
        "attention.norm": (spec.hidden,),
        "attention.query": (queries, spec.hidden),
        "attention.key": (keys, spec.hidden),
        "attention.value": (keys, spec.hidden),
        "attention.query_key_value": (queries + 2 * keys, spec.hidden),
        "attention.output": (spec.hidden, queries),
        "attention.query_norm": (spec.head_dim,),
        "attention.key_norm": (spec.head_dim,),
        "mlp.norm": (spec.hidden,),
        "mlp.gate": (spec.intermediate, spec.hidden),
        "mlp.up": (spec.intermediate, spec.hidden),
        "mlp.gate_up": (2 * spec.intermediate, spec.hidden),
        "mlp.down": (spec.hidden, spec.intermediate),
    }
    outside = {"embedding": (spec.vocab, spec.hidden), "norm": (spec.hidden,), "head": (spec.vocab, spec.hidden)}
    result: dict[str, tuple[int, ...]] = {}
    for role in names(spec):
        matrix = role.removesuffix(".bias")
        shape = outside.get(matrix) or by_kind[matrix.split(".", 2)[2]]
        result[role] = shape[:1] if role.endswith(".bias") else shape
    return result


def spec(config: Mapping[str, Any], **family: Any) -> Spec:
    """Read config.json; `family` overrides what the family fixes. Raises CorruptInput on absent or absurd sizes."""
    heads = size(config, "num_attention_heads", 4096)
    hidden = size(config, "hidden_size", 1 << 20)
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise Unsupported(f"activation {config['hidden_act']!r} is not known for {config.get('model_type')}")
    head_dim = config.get("head_dim") or hidden // heads
    values: dict[str, Any] = {
        "family": str(config["model_type"]),
        "vocab": size(config, "vocab_size", 1 << 24),
        "hidden": hidden,
        "intermediate": size(config, "intermediate_size", 1 << 22),
        "layers": size(config, "num_hidden_layers", 1024),
        "heads": heads,
        "kv_heads": size(config, "num_key_value_heads", 4096, heads),
        "head_dim": size({"head_dim": head_dim}, "head_dim", 4096),
        "context": size(config, "max_position_embeddings", 1 << 30),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "rope": rope(config, head_dim),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
    values.update(family)
    result = Spec(**values)
    if result.heads % result.kv_heads:
        raise CorruptInput(f"{result.heads} attention heads cannot share {result.kv_heads} key-value heads")
    if result.head_dim % 2:
        raise CorruptInput(f"head_dim {result.head_dim} is odd: rotary embedding needs pairs")
    return result


def size(config: Mapping[str, Any], key: str, most: int, default: int | None = None) -> int:
    """A positive whole number of at most `most`, or CorruptInput."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise CorruptInput(f"config.json: {key} is {value!r}, not a whole number from 1 to {most}")
    return value


def rope(config: Mapping[str, Any], head_dim: int) -> Rope:
    """Both spellings: rope_theta + rope_scaling (to transformers 4), and rope_parameters (from 5)."""
    parameters = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    scaling = str(parameters.get("rope_type", parameters.get("type", "default")))
    partial = float(parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    if not 0 < partial <= 1:
        raise CorruptInput(f"config.json: partial_rotary_factor is {partial}, not above 0 and at most 1")
    plain = Rope(int(head_dim * partial), float(theta))
    if scaling == "default":
        return plain
    if scaling == "linear":
        return replace(plain, scaling="linear", factor=float(parameters["factor"]))
    if scaling == "llama3":
        return replace(
            plain,
            scaling="llama3",
            factor=float(parameters["factor"]),
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_context=int(parameters["original_max_position_embeddings"]),
        )
    if scaling in ("longrope", "su"):
        return _longrope(plain, config, parameters)
    raise Unsupported(
        f"rope scaling {scaling!r} is not done yet",
        "remove rope_scaling from config.json to use the trained context only",
    )


def _longrope(plain: Rope, config: Mapping[str, Any], parameters: Mapping[str, Any]) -> Rope:
    """transformers/modeling_rope_utils.py, _compute_longrope_parameters."""
    original = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    original = size({"original_max_position_embeddings": original}, "original_max_position_embeddings", 1 << 30)
    factors = []
    for key in ("short_factor", "long_factor"):
        found = parameters.get(key)
        if not isinstance(found, list) or len(found) != plain.dim // 2 or not all(0 < float(one) < 1e6 for one in found):
            raise CorruptInput(f"config.json: rope_scaling's {key} is no list of {plain.dim // 2} numbers above 0")
        factors.append(tuple(float(one) for one in found))
    grown = size(config, "max_position_embeddings", 1 << 30) / original
    usual = math.sqrt(1 + math.log(grown) / math.log(original)) if grown > 1 and original > 1 else 1.0
    magnitude = parameters.get("attention_factor")
    return replace(
        plain,
        scaling="longrope",
        original_context=original,
        short=factors[0],
        long=factors[1],
        magnitude=float(usual if magnitude is None else magnitude),
    )


def windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Sliding window by layer from layer_types, or one for all (mistral); () where attention is full everywhere."""
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if window is None or config.get("use_sliding_window", True) is False:
        return ()
    if kinds is None:
        first = int(config.get("max_window_layers", 0)) if "use_sliding_window" in config else 0
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(config["num_hidden_layers"])]
    result = tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    return result if any(result) else ()


def toy(model_type: str, architecture: str, **more: Any) -> dict[str, Any]:
    """A config.json small enough for a test that computes every logit; heads are grouped, sizes divide by 64."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        **more,
    }
