"""Roles: what a tensor is *for*, and the facts that ride on it.

A role is a dotted name that is the same for every family and every format:

    embedding                                    [vocab, hidden]
    layers.3.attention.norm                      [hidden]
    layers.3.attention.query | key | value       [heads * head_dim, hidden]
    layers.3.attention.query.bias | ...          [heads * head_dim]
    layers.3.attention.query_key_value           the three in one, where the family has them so
    layers.3.attention.query_norm | key_norm     [head_dim]
    layers.3.attention.output                    [hidden, heads * head_dim]
    layers.3.attention.sub_norm                  [heads * head_dim], before the output (bitnet)
    layers.3.attention.post_norm                 [hidden], after the output (gemma)
    layers.3.mlp.norm | post_norm                [hidden]
    layers.3.mlp.sub_norm                        [intermediate], before down (bitnet)
    layers.3.mlp.gate | up                       [intermediate, hidden]
    layers.3.mlp.gate_up                         [2 * intermediate, hidden], where the family has them so
    layers.3.mlp.down                            [hidden, intermediate]
    norm                                         [hidden]
    head                                         [vocab, hidden], absent when tied to the embedding

Matrices are [output, input]; quantization groups lie along the input (the last axis).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What may be done to a tensor because of its role."""

    quantize: bool
    """May be stored as codes. Vectors (norms, biases) never are: they cost nothing and every engine wants them in float."""
    float32: bool
    """Kept in f32 where the format leaves a choice (llama.cpp asserts f32 for these)."""


MATRIX = Facts(quantize=True, float32=False)
VECTOR = Facts(quantize=False, float32=True)

_MATRICES = frozenset(
    {"embedding", "head", "query", "key", "value", "query_key_value", "output", "gate", "up", "gate_up", "down"}
)


def kind(role: str) -> str:
    """The role without its layer: `layers.3.mlp.up` -> `mlp.up`."""
    return role.split(".", 2)[2] if role.startswith("layers.") else role


def layer(role: str) -> int | None:
    """The layer's number, or None outside the layers."""
    return int(role.split(".", 2)[1]) if role.startswith("layers.") else None


def facts(role: str) -> Facts:
    """The facts of a role."""
    return MATRIX if kind(role).rsplit(".", 1)[-1] in _MATRICES else VECTOR


def is_norm(role: str) -> bool:
    """Whether it is the weight of a norm."""
    return kind(role).endswith("norm")


def group(role: str) -> str:
    """The heading under which bytes are counted: embedding, head, attention, mlp or norm."""
    name = kind(role)
    if name in ("embedding", "head"):
        return name
    if "norm" in name:
        return "norm"
    return name.split(".", 1)[0]
