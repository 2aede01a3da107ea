"""OLMo 2: norms behind each half of a layer instead of before it, and over the whole of query and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.architectures import _decoder
from slmops.core.errors import Unsupported
from slmops.core.model import Weights
from slmops.core.spec import Spec
from slmops.ops import Ops, Value

GGUF = "olmo2"
GGUF_PERMUTED = ()
GGUF_TAKES = ("whole norms",)
MLX = "olmo2"
TOY = {**_decoder.toy("olmo2", "Olmo2ForCausalLM"), "num_key_value_heads": 4}
TOY.pop("head_dim")


def forward(ops: Ops[Value], spec: Spec, w: Weights, ids: Value) -> Value:
    """Logits of every position."""
    x = ops.embed(w("embedding"), ids)
    for number in range(spec.layers):
        layer = w.layer(number)
        query, key = ops.linear(x, layer("attention.query")), ops.linear(x, layer("attention.key"))
        attended = _decoder.attend(
            ops,
            spec,
            number,
            ops.norm(query, layer("attention.query_norm"), spec.norm_eps),
            ops.norm(key, layer("attention.key_norm"), spec.norm_eps),
            ops.linear(x, layer("attention.value")),
        )
        h = ops.norm(ops.linear(attended, layer("attention.output")), layer("attention.post_norm"), spec.norm_eps)
        x = ops.add(x, h)
        gated = ops.gated(ops.linear(x, layer("mlp.gate")), ops.linear(x, layer("mlp.up")), spec.activation)
        x = ops.add(x, ops.norm(ops.linear(gated, layer("mlp.down")), layer("mlp.post_norm"), spec.norm_eps))
    return ops.head(ops.norm(x, w("norm"), spec.norm_eps), w.get("head") or w("embedding"))


def names(spec: Spec) -> dict[str, str]:
    """Role -> checkpoint name."""
    result: dict[str, str] = {}
    for role, name in _decoder.names(spec).items():
        if role.endswith("mlp.norm"):
            prefix = name.removesuffix("post_attention_layernorm.weight")
            result[role.replace("mlp.norm", "attention.query_norm")] = prefix + "self_attn.q_norm.weight"
            result[role.replace("mlp.norm", "attention.key_norm")] = prefix + "self_attn.k_norm.weight"
            result[role.replace("mlp.norm", "attention.post_norm")] = name
            result[role.replace("mlp.norm", "mlp.post_norm")] = prefix + "post_feedforward_layernorm.weight"
        elif not role.endswith("attention.norm"):
            result[role] = name
    return result


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Role -> the shape it must have."""
    widths = {"query_norm": spec.heads * spec.head_dim, "key_norm": spec.kv_heads * spec.head_dim, "post_norm": spec.hidden}
    known = _decoder.shapes(spec)
    return {role: (widths[last],) if (last := role.rsplit(".", 1)[-1]) in widths else known[role] for role in names(spec)}


def spec(config: Mapping[str, Any]) -> Spec:
    if config.get("attention_bias"):
        raise Unsupported("an OLMo 2 with biases is not known")
    return _decoder.spec(config)
