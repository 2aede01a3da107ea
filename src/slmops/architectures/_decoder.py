"""The program that llama, mistral, qwen2 and qwen3 share: pre-norm decoder, grouped attention, gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Weights
from slmops.core.spec import Rope, Spec
from slmops.ops import Ops, Value


def forward(ops: Ops[Value], spec: Spec, w: Weights, ids: Value) -> Value:
    """Logits of every position."""
    x = ops.embed(w("embedding"), ids)
    for number in range(spec.layers):
        layer = w.layer(number)
        h = ops.norm(x, layer("attention.norm"), spec.norm_eps)
        query = ops.linear(h, layer("attention.query"), layer.get("attention.query.bias"))
        key = ops.linear(h, layer("attention.key"), layer.get("attention.key.bias"))
        value = ops.linear(h, layer("attention.value"), layer.get("attention.value.bias"))
        if spec.head_norm:
            query = ops.norm(query, layer("attention.query_norm"), spec.norm_eps, heads=spec.heads)
            key = ops.norm(key, layer("attention.key_norm"), spec.norm_eps, heads=spec.kv_heads)
        attended = ops.attention(
            query,
            key,
            value,
            layer=number,
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            rope=spec.rope,
            window=spec.window(number),
            scale=spec.head_dim**-0.5,
        )
        x = ops.add(x, ops.linear(attended, layer("attention.output"), layer.get("attention.output.bias")))
        h = ops.norm(x, layer("mlp.norm"), spec.norm_eps)
        gate = ops.linear(h, layer("mlp.gate"), layer.get("mlp.gate.bias"))
        up = ops.linear(h, layer("mlp.up"), layer.get("mlp.up.bias"))
        x = ops.add(x, ops.linear(ops.gated(gate, up, "silu"), layer("mlp.down"), layer.get("mlp.down.bias")))
    return ops.head(ops.norm(x, w("norm"), spec.norm_eps), w.get("head") or w("embedding"))


def names(spec: Spec) -> dict[str, str]:
    """Role -> checkpoint name, in checkpoint order."""
    result = {"embedding": "model.embed_tokens.weight"}
    for number in range(spec.layers):
        role, name = f"layers.{number}.", f"model.layers.{number}."
        result[role + "attention.norm"] = name + "input_layernorm.weight"
        for ours, theirs, bias in (
            ("attention.query", "self_attn.q_proj", spec.attention_bias),
            ("attention.key", "self_attn.k_proj", spec.attention_bias),
            ("attention.value", "self_attn.v_proj", spec.attention_bias),
            ("attention.output", "self_attn.o_proj", spec.output_bias),
            ("mlp.gate", "mlp.gate_proj", spec.mlp_bias),
            ("mlp.up", "mlp.up_proj", spec.mlp_bias),
            ("mlp.down", "mlp.down_proj", spec.mlp_bias),
        ):
            result[role + ours] = name + theirs + ".weight"
            if bias:
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
        "attention.output": (spec.hidden, queries),
        "attention.query_norm": (spec.head_dim,),
        "attention.key_norm": (spec.head_dim,),
        "mlp.norm": (spec.hidden,),
        "mlp.gate": (spec.intermediate, spec.hidden),
        "mlp.up": (spec.intermediate, spec.hidden),
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
    plain = Rope(head_dim, float(theta))
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
    raise Unsupported(
        f"rope scaling {scaling!r} is not done yet",
        "remove rope_scaling from config.json to use the trained context only",
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
