"""BitNet b1.58: llama with a norm before the attention's output and before down, and a squared ReLU; weights -1, 0, 1.

Its own engines round activations to int8 token by token; the program here computes with the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.errors import Unsupported
from slmops.core.model import Weights
from slmops.core.spec import Spec
from slmops.ops import Ops, Value

GGUF = None
"""llama.cpp's `bitnet` is an earlier model with another activation; this one lives in a fork of it."""
GGUF_PERMUTED = ()
GGUF_TAKES = ()
MLX = None
"""mlx-lm has it on Metal kernels alone."""
TOY = {
    **_decoder.toy("bitnet", "BitNetForCausalLM", tie_word_embeddings=True, hidden_act="relu2"),
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 64,
}


def forward(ops: Ops[Value], spec: Spec, w: Weights, ids: Value) -> Value:
    """Logits of every position."""
    x = ops.embed(w("embedding"), ids)
    for number in range(spec.layers):
        layer = w.layer(number)
        h = ops.norm(x, layer("attention.norm"), spec.norm_eps)
        attended = _decoder.attend(
            ops,
            spec,
            number,
            ops.linear(h, layer("attention.query")),
            ops.linear(h, layer("attention.key")),
            ops.linear(h, layer("attention.value")),
        )
        attended = ops.norm(attended, layer("attention.sub_norm"), spec.norm_eps)
        x = ops.add(x, ops.linear(attended, layer("attention.output")))
        h = ops.norm(x, layer("mlp.norm"), spec.norm_eps)
        gated = ops.gated(ops.linear(h, layer("mlp.gate")), ops.linear(h, layer("mlp.up")), spec.activation)
        x = ops.add(x, ops.linear(ops.norm(gated, layer("mlp.sub_norm"), spec.norm_eps), layer("mlp.down")))
    return ops.head(ops.norm(x, w("norm"), spec.norm_eps), w.get("head") or w("embedding"))


def names(spec: Spec) -> dict[str, str]:
    """Role -> checkpoint name."""
    result = _decoder.names(spec)
    for number in range(spec.layers):
        role, name = f"layers.{number}.", f"model.layers.{number}."
        result[role + "attention.sub_norm"] = name + "self_attn.attn_sub_norm.weight"
        result[role + "mlp.sub_norm"] = name + "mlp.ffn_sub_norm.weight"
    return result


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Role -> the shape it must have."""
    result = _decoder.shapes(spec)
    for number in range(spec.layers):
        result[f"layers.{number}.attention.sub_norm"] = (spec.heads * spec.head_dim,)
        result[f"layers.{number}.mlp.sub_norm"] = (spec.intermediate,)
    return result


def spec(config: Mapping[str, Any]) -> Spec:
    if config.get("hidden_act", "relu2") != "relu2" or config.get("attention_bias"):
        raise Unsupported("a BitNet with another activation or with biases is not known")
    return _decoder.spec({**config, "hidden_act": "silu"}, activation="relu2")
