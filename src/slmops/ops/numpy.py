"""The reference interpreter: computes a program in f32 with numpy, weights de-quantized block by block as they pass.

The truth that engines are compared with. Memory stays near one block and the activations; speed is BLAS's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from slmops.core import plugins
from slmops.core.errors import UsageError
from slmops.core.model import Model, Weights
from slmops.core.spec import Rope
from slmops.core.tensor import Array, Floats, Tensor, row_blocks, to_numpy

KEEP_BELOW = 16 << 20
"""Models of fewer parameters keep their f32 weights between calls: 64 MB at most."""


class NumpyOps:
    """Implements slmops.ops.Ops on f32 arrays [batch, positions, features]; ids are int arrays [batch, positions].

    Keeps a KV cache by layer, so a sequence may be fed in chunks; `reset()` begins a new one.
    """

    def __init__(self, tensors: Mapping[str, Tensor], keep: bool = False) -> None:
        self._tensors = tensors
        self._keep = keep
        self._kept: dict[str, Floats] = {}
        self._cache: dict[int, tuple[Floats, Floats]] = {}

    def reset(self) -> None:
        self._cache.clear()

    def _array(self, role: str) -> Floats:
        if role not in self._kept:
            array = to_numpy(self._tensors[role])
            if not self._keep:
                return array
            self._kept[role] = array
        return self._kept[role]

    def embed(self, weight: str, ids: Floats) -> Floats:
        if self._keep:
            return np.asarray(self._array(weight)[inside(ids, self._tensors[weight])], np.float32)
        return look_up(self._tensors[weight], ids)

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        tensor = self._tensors[weight]
        if self._keep:
            y = np.matmul(x, self._array(weight).T)
        else:
            y = np.empty((*x.shape[:-1], tensor.shape[0]), np.float32)
            for start, stop in row_blocks(tensor.shape):
                y[..., start:stop] = x @ tensor.rows(start, stop).astype(np.float32).T
        return y if bias is None else np.asarray(y + self._array(bias), np.float32)

    def split(self, x: Floats, sizes: Sequence[int]) -> Sequence[Floats]:
        return np.split(x, np.cumsum(sizes)[:-1], axis=-1)

    def norm(self, x: Floats, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Floats:
        shape = x.shape
        if heads is not None:
            x = x.reshape(*shape[:-1], heads, -1)
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
        gamma = self._array(weight) + np.float32(offset) if offset else self._array(weight)
        return np.asarray(x * scale * gamma, np.float32).reshape(shape)

    def attention(
        self,
        query: Floats,
        key: Floats,
        value: Floats,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: Rope | None,
        window: int | None,
        scale: float,
        cap: float | None = None,
    ) -> Floats:
        batch, count = query.shape[:2]
        past = self._cache[layer][0].shape[2] if layer in self._cache else 0
        q = query.reshape(batch, count, heads, head_dim).transpose(0, 2, 1, 3)
        k = key.reshape(batch, count, kv_heads, head_dim).transpose(0, 2, 1, 3)
        v = value.reshape(batch, count, kv_heads, head_dim).transpose(0, 2, 1, 3)
        positions = np.arange(past, past + count)
        if rope is not None:
            q, k = rotate(q, positions, rope), rotate(k, positions, rope)
        if past:
            k = np.concatenate([self._cache[layer][0], k], axis=2)
            v = np.concatenate([self._cache[layer][1], v], axis=2)
        self._cache[layer] = (k, v)
        grouped = q.reshape(batch, kv_heads, heads // kv_heads, count, head_dim)
        scores = np.einsum("bghqd,bgkd->bghqk", grouped, k, optimize=True) * np.float32(scale)
        if cap is not None:
            scores = np.tanh(scores / np.float32(cap)) * np.float32(cap)
        behind = positions[:, None] - np.arange(past + count)[None, :]
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        scores[..., hidden] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores)
        weights /= weights.sum(axis=-1, keepdims=True)
        y = np.einsum("bghqk,bgkd->bghqd", weights, v, optimize=True).reshape(batch, heads, count, head_dim)
        return np.asarray(y.transpose(0, 2, 1, 3), np.float32).reshape(batch, count, heads * head_dim)

    def gated(self, gate: Floats, up: Floats, activation: str) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(ACTIVATIONS[activation](gate) * up, np.float32)

    def add(self, x: Floats, y: Floats) -> Floats:
        return x + y

    def scale(self, x: Floats, factor: float) -> Floats:
        return x * np.float32(factor)

    def head(self, x: Floats, weight: str, cap: float | None = None) -> Floats:
        logits = self.linear(x, weight)
        return logits if cap is None else np.tanh(logits / np.float32(cap)) * np.float32(cap)


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: (
        x * np.float32(0.5) * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)))
    ),
    "relu2": lambda x: np.square(np.maximum(x, np.float32(0))),
}


def look_up(table: Tensor, ids: Array) -> Floats:
    """Rows of an embedding for ids of any shape, f32 [..., columns]: each is read once. Raises UsageError, see `inside`."""
    unique, inverse = np.unique(inside(ids, table), return_inverse=True)
    rows = np.concatenate([table.rows(int(i), int(i) + 1).astype(np.float32) for i in unique])
    return np.asarray(rows[inverse.reshape(ids.shape)], np.float32)


def inside(ids: Array, table: Tensor) -> Array:
    """The ids. Raises UsageError where the table has no row for one: a tokenizer may have more tokens than the model."""
    if ids.size and not 0 <= ids.min() <= ids.max() < table.shape[0]:
        raise UsageError(
            f"the text has the token {int(ids.max())}, and the model knows {table.shape[0]:,}",
            "leave out of the text what the tokenizer has and the model has not",
        )
    return ids


def rotate(x: Floats, positions: np.ndarray[tuple[int], np.dtype[np.int64]], rope: Rope) -> Floats:
    """Rotate pairs (i, i + dim/2) of the last axis of [batch, heads, positions, head_dim]; past `dim` nothing turns."""
    far = int(positions[-1]) >= rope.original_context
    angles = positions[:, None].astype(np.float32) * rope.frequencies(far)[None, :]
    cos, sin = np.cos(angles) * np.float32(rope.magnitude), np.sin(angles) * np.float32(rope.magnitude)
    half = rope.dim // 2
    a, b, rest = x[..., :half], x[..., half : rope.dim], x[..., rope.dim :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


class Reference:
    """A model made ready to compute logits; keeps small models' weights in memory between calls."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._ops = NumpyOps(model.tensors, keep=model.parameters < KEEP_BELOW)
        self._program = plugins.load("architectures", model.spec.family)

    def logits(self, ids: Sequence[int], chunks: Sequence[int] | None = None) -> Floats:
        """Logits f32 [len(ids), vocab] of one sequence, fed whole or in chunks of these lengths."""
        self._ops.reset()
        parts, start = [], 0
        for length in chunks or (len(ids),):
            part = np.array([ids[start : start + length]], np.int64)
            weights = Weights(self._model.tensors)
            parts.append(self._program.forward(self._ops, self._model.spec, weights, part)[0])
            start += length
        self._ops.reset()
        return np.concatenate(parts)
