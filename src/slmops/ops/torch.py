"""The interpreter that knows gradients: computes a program with PyTorch in f32, and goes back through it.

Weights are read when they are needed and not kept, forwards and backwards: memory holds the activations and one matrix.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from slmops.core.model import Weights
from slmops.core.spec import Rope, Spec
from slmops.core.tensor import Array, Floats, Tensor, to_numpy
from slmops.ops.numpy import KEEP_BELOW, look_up


@contextlib.contextmanager
def _passive() -> Iterator[None]:
    """PyTorch's threads spin while they wait, by default, and what numpy computes between its operations then takes twice as
    long. OpenMP reads the policy when it is loaded; engines that use it in processes of their own must not inherit this one.
    """
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "passive"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]


with _passive():
    import torch

Watch = Callable[[str, Floats, Floats], None]
"""(role, inputs [tokens, columns], gradients of the outputs [tokens, rows])."""


class TorchOps:
    """Implements slmops.ops.Ops on f32 tensors [batch, positions, features]; ids are int64 [batch, positions].

    No KV cache: sequences are whole. `head` computes no logits: it gives its input back, and `backward` starts from its
    gradients. watch: is told what every matrix saw, as the gradients pass it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], watch: Watch, keep: bool | None = None) -> None:
        self._tensors, self._watch = tensors, watch
        small = sum(int(np.prod(tensor.shape)) for tensor in tensors.values()) < KEEP_BELOW
        keep = small if keep is None else keep
        self._matrix = functools.cache(self._read) if keep else self._read
        self._looked_up = self._last = torch.empty(0)
        self.leaves: Mapping[str, Floats] = {}
        """Vectors, norms and biases, whose gradients are wanted: their values in place of the tensors'."""
        self._leaves: dict[str, torch.Tensor] = {}

    def _read(self, role: str) -> torch.Tensor:
        return torch.from_numpy(to_numpy(self._tensors[role]))

    def forward(self, program: Callable[..., torch.Tensor], spec: Spec, ids: Array) -> Floats:
        """What the head is given, f32 [batch, positions, hidden]. program: an architecture's `forward`."""
        self._leaves = {role: torch.from_numpy(values).requires_grad_() for role, values in self.leaves.items()}
        self._last = program(self, spec, Weights(self._tensors), torch.from_numpy(ids))
        return np.asarray(self._last.detach().numpy())

    def look(self, program: Callable[..., torch.Tensor], spec: Spec, ids: Array) -> Floats:
        """What `forward` gives, with no way back."""
        with torch.no_grad():
            found = self.forward(program, spec, ids)
        self._looked_up = self._last = torch.empty(0)
        return found

    def backward(self, gradient: Floats) -> Floats:
        """From the gradients of what `forward` gave, of its shape, to those of the rows that were looked up."""
        self._last.backward(torch.from_numpy(gradient))
        found = np.asarray(self._looked_up.grad.numpy())
        self._looked_up = self._last = torch.empty(0)
        return found

    @property
    def gradients(self) -> dict[str, Floats]:
        """Of the `leaves`, once `backward` has passed them."""
        return {role: np.asarray(leaf.grad.numpy()) for role, leaf in self._leaves.items() if leaf.grad is not None}

    def _vector(self, role: str) -> torch.Tensor:
        return self._leaves[role] if role in self._leaves else self._matrix(role)

    def embed(self, weight: str, ids: torch.Tensor) -> torch.Tensor:
        self._looked_up = torch.from_numpy(look_up(self._tensors[weight], ids.numpy())).requires_grad_()
        return self._looked_up

    def linear(self, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        y: torch.Tensor = _Linear.apply(x, weight, self._matrix, self._watch)
        return y if bias is None else y + self._vector(bias)

    def split(self, x: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
        return tuple(torch.split(x, list(sizes), dim=-1))

    def norm(self, x: torch.Tensor, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> torch.Tensor:
        shape = x.shape
        if heads is not None:
            x = x.reshape(*shape[:-1], heads, -1)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return (x * (self._vector(weight) + offset)).reshape(shape)

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: Rope | None,
        window: int | None,
        scale: float,
        cap: float | None = None,
    ) -> torch.Tensor:
        batch, count = query.shape[:2]
        q = query.reshape(batch, count, heads, head_dim).transpose(1, 2)
        k = key.reshape(batch, count, kv_heads, head_dim).transpose(1, 2)
        v = value.reshape(batch, count, kv_heads, head_dim).transpose(1, 2)
        if rope is not None:
            q, k = _rotate(q, rope), _rotate(k, rope)
        k, v = (one.repeat_interleave(heads // kv_heads, dim=1) for one in (k, v))
        scores = q @ k.transpose(-1, -2) * scale
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        behind = torch.arange(count)[:, None] - torch.arange(count)[None, :]
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        y = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1) @ v
        return y.transpose(1, 2).reshape(batch, count, heads * head_dim)

    def gated(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        return ACTIVATIONS[activation](gate) * up

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def scale(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    def head(self, x: torch.Tensor, weight: str, cap: float | None = None) -> torch.Tensor:
        return x


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu_tanh": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    "relu2": lambda x: torch.relu(x).square(),
}


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """x @ weight.T that keeps the role, not the numbers, and tells what it saw when the gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, role: str, read: Callable[[str], torch.Tensor], watch: Watch) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.role, ctx.read, ctx.watch = role, read, watch
        return x @ read(role).T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        ctx.watch(ctx.role, x.flatten(0, -2).numpy(), gradient.flatten(0, -2).contiguous().numpy())
        return gradient @ ctx.read(ctx.role), None, None, None


def _rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """As slmops.ops.numpy.rotate, from position 0."""
    count = x.shape[-2]
    frequencies = torch.from_numpy(rope.frequencies(count > rope.original_context))
    angles = torch.arange(count, dtype=torch.float32)[:, None] * frequencies[None, :]
    cos, sin = torch.cos(angles) * rope.magnitude, torch.sin(angles) * rope.magnitude
    half = rope.dim // 2
    a, b, rest = x[..., :half], x[..., half : rope.dim], x[..., rope.dim :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
