"""What the pruning passes share: a model of smaller sizes, its tensors gathered from the larger one's as they are pulled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from slmops.core import plugins, store
from slmops.core import spec as specs
from slmops.core.errors import Unsupported
from slmops.core.model import Model, Weights
from slmops.core.scheme import Packed
from slmops.core.spec import Spec
from slmops.core.tensor import Array, Floats, Lazy, Tensor
from slmops.ops.numpy import KEEP_BELOW, NumpyOps

GAP = 8
"""Rows that are read and thrown away rather than read around."""
BATCH = 8
"""Windows that pass at once."""


def refuse(model: Model) -> None:
    """Raise Unsupported for what cannot be cut: codes, whose groups would be torn, and an adapter beside the weights."""
    if any(isinstance(tensor, Packed) for tensor in model.tensors.values()):
        raise Unsupported(f"{model.name} is quantized already, and codes are not pruned", "prune the unquantized checkpoint")
    if model.adapter is not None:
        raise Unsupported("an adapter beside the weights has their old sizes", "merge it into the weights first")


def resized(model: Model, spec: Spec, config: Mapping[str, Any], total: int, kept: Callable[[str], Array]) -> Model:
    """The model in the sizes of `spec`, which `config` must say alike.

    Which axis of a tensor shrinks follows from its shapes in both sizes; kept(role) are the indices of `total` that stay on
    it, ascending. A tensor with several runs of `total` on that axis (gate and up in one) keeps the same of each.
    """
    shapes: Mapping[str, tuple[int, ...]] = plugins.load("architectures", spec.family).shapes(spec)
    tensors: dict[str, Tensor] = {}
    for role, tensor in model.tensors.items():
        changed = [axis for axis, size in enumerate(shapes[role]) if size != tensor.shape[axis]]
        if changed:
            runs = tensor.shape[changed[0]] // total
            indices = np.concatenate([kept(role) + total * run for run in range(runs)])
            tensor = rows(tensor, indices) if changed[0] == 0 else columns(tensor, indices)
        tensors[role] = tensor
    return agreed(dataclasses.replace(model, spec=spec, config=config, tensors=tensors, steps={}))


def agreed(model: Model) -> Model:
    """The model itself, if its config.json gives its spec. Raises Unsupported where it cannot say it."""
    said = specs.from_config(model.config)
    if said != model.spec:
        parts = [
            field.name for field in dataclasses.fields(Spec) if getattr(said, field.name) != getattr(model.spec, field.name)
        ]
        raise Unsupported(
            f"config.json of a {model.spec.family} cannot say its new {' and '.join(parts)}", "choose other layers or sizes"
        )
    return model


def noted(model: Model, note: str, kept: Any) -> Model:
    """The model with a line of what was done; `kept`, as JSON, tells this pruning from others of the same sizes."""
    source = dict(model.source)
    source["pruned"] = [*source.get("pruned", ()), {"what": note, "kept": store.digest(kept)}]
    source["notes"] = (*source.get("notes", ()), note)
    return dataclasses.replace(model, source=source)


def rows(tensor: Tensor, indices: Array) -> Tensor:
    """The rows of these indices (ascending), gathered block by block."""

    def pull(start: int, stop: int) -> Array:
        wanted = indices[start:stop]
        steps = np.diff(wanted)
        near = np.split(wanted, np.flatnonzero(steps > GAP) + 1)
        return np.concatenate([tensor.rows(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in near])

    return Lazy((len(indices), *tensor.shape[1:]), tensor.dtype, pull)


def columns(tensor: Tensor, indices: Array) -> Tensor:
    """The columns of these indices, in the same blocks of rows."""

    def pull(start: int, stop: int) -> Array:
        return np.ascontiguousarray(tensor.rows(start, stop)[:, indices])

    return Lazy((tensor.shape[0], len(indices)), tensor.dtype, pull)


class Body(NumpyOps):
    """The reference interpreter that stops before the head, whose input it keeps."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.tensors, keep=model.parameters < KEEP_BELOW)
        self._model = model
        self._last: tuple[Floats, str, float | None]
        self._before: Floats
        self._start: Floats | None = None

    def embed(self, weight: str, ids: Floats) -> Floats:
        return super().embed(weight, ids) if self._start is None else self._start

    def scale(self, x: Floats, factor: float) -> Floats:
        # Of what is begun with, whatever a program does to a row that it has looked up is done already.
        return x if x is self._start else super().scale(x, factor)

    def norm(self, x: Floats, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Floats:
        if weight == "norm":
            self._before = x
        return super().norm(x, weight, eps, heads, offset)

    def head(self, x: Floats, weight: str, cap: float | None = None) -> Floats:
        self._last = (x, weight, cap)
        return np.zeros((*x.shape[:-1], 1), np.float32)

    def run(self, windows: Array, start: Floats | None = None) -> tuple[Floats, Floats]:
        """What the last norm is given, and what the head would multiply: f32 [windows, positions, hidden] each.

        windows: ids [windows, positions]. start: what to begin the first layer with in place of the embedding's rows, such
        as the former of the two of a model of the layers before.
        """
        program, spec = plugins.load("architectures", self._model.spec.family), self._model.spec
        parts: tuple[list[Floats], list[Floats]] = ([], [])
        for at in range(0, len(windows), BATCH):
            self.reset()
            self._start = None if start is None else start[at : at + BATCH]
            program.forward(self, spec, Weights(self._model.tensors), windows[at : at + BATCH])
            parts[0].append(self._before)
            parts[1].append(self._last[0])
        self.reset()
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def logits(self, hidden: Floats) -> Floats:
        """Of some rows of `hidden`, f32 [rows, vocab]."""
        return super().head(hidden, *self._last[1:])
