"""The dozen operations that an architecture's program is written in, and the interpreters that run it.

An interpreter implements `Ops` for its own kind of value: `numpy` computes (ops/numpy.py), the ONNX and OpenVINO back ends
emit a graph (they live with their format). Weights are named by role; the interpreter knows what a role became.

Values flow as [batch, positions, features]; attention takes and gives features laid out head by head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from slmops.core.spec import Rope

Value = TypeVar("Value")


class Ops(Protocol[Value]):
    """What a program may ask for. An operation that an engine cannot express raises Unsupported while planning."""

    def embed(self, weight: str, ids: Value) -> Value:
        """Rows of the embedding [vocab, hidden] for ids [batch, positions]."""
        ...

    def linear(self, x: Value, weight: str, bias: str | None = None) -> Value:
        """x @ weight.T + bias; weight is [output, input]."""
        ...

    def split(self, x: Value, sizes: Sequence[int]) -> Sequence[Value]:
        """Cut the last axis into parts of these sizes."""
        ...

    def norm(self, x: Value, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Value:
        """RMS norm of the last axis times (weight + offset); with `heads`, of each head apart, sharing one weight."""
        ...

    def attention(
        self,
        query: Value,
        key: Value,
        value: Value,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: Rope | None,
        window: int | None,
        scale: float,
        cap: float | None = None,
    ) -> Value:
        """Causal grouped attention with a KV cache per layer; rotates query and key by `rope` first.

        The rotation is an argument, not an operation of its own, because ONNX Runtime fuses both into one operator.
        Never given a mask: each back end makes the pattern that its engine recognises from `window`. `cap`: scores s become
        cap * tanh(s / cap).
        """
        ...

    def gated(self, gate: Value, up: Value, activation: str) -> Value:
        """activation(gate) * up; activation is `silu`, `gelu_tanh` or `relu2` (the square of what is above 0)."""
        ...

    def add(self, x: Value, y: Value) -> Value: ...

    def scale(self, x: Value, factor: float) -> Value: ...

    def head(self, x: Value, weight: str, cap: float | None = None) -> Value:
        """Logits f32 [batch, positions, vocab]; `weight` is the embedding's role where tied; `cap` as in attention."""
        ...
