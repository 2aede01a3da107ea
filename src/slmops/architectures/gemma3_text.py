"""Gemma 3 (text): norms before and after each half of a layer, five layers with a window to one without, two rope bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Weights
from slmops.core.spec import Rope, Spec
from slmops.ops import Ops, Value

GGUF = "gemma3"
GGUF_PERMUTED = ()
GGUF_TAKES = ("head norm", "free head_dim", "windows of gemma3", "norm offset", "scaled embedding")
MLX = "gemma3_text"
TOY = _decoder.toy(
    "gemma3_text",
    "Gemma3ForCausalLM",
    hidden_size=256,
    num_hidden_layers=7,
    tie_word_embeddings=True,
    hidden_activation="gelu_pytorch_tanh",
    query_pre_attn_scalar=32,
    rope_theta=1000000.0,
    rope_local_base_freq=10000.0,
    sliding_window=64,
    max_position_embeddings=512,
)
TOY.pop("hidden_act")


def forward(ops: Ops[Value], spec: Spec, w: Weights, ids: Value) -> Value:
    """Logits of every position."""

    def norm(x: Value, weight: str, heads: int | None = None) -> Value:
        return ops.norm(x, weight, spec.norm_eps, heads=heads, offset=spec.norm_offset)

    x = ops.scale(ops.embed(w("embedding"), ids), spec.hidden**0.5)
    for number in range(spec.layers):
        layer = w.layer(number)
        h = norm(x, layer("attention.norm"))
        attended = _decoder.attend(
            ops,
            spec,
            number,
            norm(ops.linear(h, layer("attention.query")), layer("attention.query_norm"), spec.heads),
            norm(ops.linear(h, layer("attention.key")), layer("attention.key_norm"), spec.kv_heads),
            ops.linear(h, layer("attention.value")),
        )
        x = ops.add(x, norm(ops.linear(attended, layer("attention.output")), layer("attention.post_norm")))
        h = norm(x, layer("mlp.norm"))
        gated = ops.gated(ops.linear(h, layer("mlp.gate")), ops.linear(h, layer("mlp.up")), spec.activation)
        x = ops.add(x, norm(ops.linear(gated, layer("mlp.down")), layer("mlp.post_norm")))
    return ops.head(norm(x, w("norm")), w.get("head") or w("embedding"), spec.logit_cap)


def names(spec: Spec) -> dict[str, str]:
    """Role -> checkpoint name. What others call post_attention_layernorm stands here behind the attention's output."""
    result: dict[str, str] = {}
    for role, name in _decoder.names(spec).items():
        if role.endswith("mlp.norm"):
            prefix = name.removesuffix("post_attention_layernorm.weight")
            result[role.replace("mlp.norm", "attention.post_norm")] = name
            result[role] = prefix + "pre_feedforward_layernorm.weight"
            result[role.replace("mlp.norm", "mlp.post_norm")] = prefix + "post_feedforward_layernorm.weight"
        else:
            result[role] = name
    return result


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Role -> the shape it must have."""
    known = _decoder.shapes(spec)
    return {role: known.get(role, (spec.hidden,)) for role in names(spec)}


def spec(config: Mapping[str, Any]) -> Spec:
    activation = config.get("hidden_activation") or config.get("hidden_act") or "gelu_pytorch_tanh"
    if activation != "gelu_pytorch_tanh" or config.get("attention_bias") or config.get("use_bidirectional_attention"):
        raise Unsupported("a Gemma 3 with another activation, biases or attention to both sides is not known")
    head_dim = _decoder.size(config, "head_dim", 4096, 256)
    layers = _decoder.size(config, "num_hidden_layers", 1024)
    window = _decoder.size(config, "sliding_window", 1 << 30, 4096)
    every = _decoder.size(config, "sliding_window_pattern", 1024, 6)
    kinds = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise CorruptInput(f"config.json: layer_types is not a list of {layers} kinds of attention")
    full, local = _ropes(config, head_dim)
    slides = [kind == "sliding_attention" for kind in kinds]
    scalar = float(config.get("query_pre_attn_scalar", 256))
    if not 0 < scalar < 1e9:
        raise CorruptInput(f"config.json: query_pre_attn_scalar is {scalar}")
    return _decoder.spec(
        {
            **config,
            "hidden_act": "silu",
            "head_dim": head_dim,
            "tie_word_embeddings": config.get("tie_word_embeddings", True),
        },
        activation="gelu_tanh",
        head_norm=True,
        norm_offset=1.0,
        rope=full,
        ropes=tuple(local if slide else full for slide in slides),
        windows=tuple(window if slide else None for slide in slides) if any(slides) else (),
        attention_scale=scalar**-0.5,
        attention_cap=config.get("attn_logit_softcapping"),
        logit_cap=config.get("final_logit_softcapping"),
    )


def gguf_config(known: Mapping[str, Any]) -> dict[str, Any]:
    """What a GGUF does not say, since llama.cpp computes it so (llama-model.cpp, LLM_ARCH_GEMMA3): of `known`, or fixed."""
    scalar = known["hidden_size"] // known["num_attention_heads"] if known["num_hidden_layers"] == 62 else known["head_dim"]
    return {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": None, "query_pre_attn_scalar": scalar,
            "rope_local_base_freq": 10000.0}  # fmt: skip


def _ropes(config: Mapping[str, Any], head_dim: int) -> tuple[Rope, Rope]:
    """Of full attention, and of the layers with a window. Both spellings, as in _decoder.rope."""
    parameters = config.get("rope_parameters")
    if isinstance(parameters, Mapping) and "full_attention" in parameters:
        plain = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_parameters")}
        full, local = (
            _decoder.rope({**plain, "rope_parameters": parameters.get(kind) or {}}, head_dim)
            for kind in ("full_attention", "sliding_attention")
        )
        return full, local
    local = Rope(head_dim, float(config.get("rope_local_base_freq", 10000.0)))
    return _decoder.rope({"rope_theta": 1000000.0, **config}, head_dim), local
