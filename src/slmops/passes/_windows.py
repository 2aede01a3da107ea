"""A pass of a model over windows of a text, some at once, so that each weight is read once for many tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from slmops.core import plugins, roles
from slmops.core.model import Model, Weights
from slmops.core.tensor import Array, Floats, Tensor
from slmops.ops.numpy import NumpyOps

BATCH = 8
"""Windows that pass at once."""


def through(ops: NumpyOps, model: Model, windows: Array) -> None:
    """Show windows of ids [count, length] to an interpreter that watches what passes; each is a fresh sequence."""
    program = plugins.load("architectures", model.spec.family)
    for start in range(0, len(windows), BATCH):
        ops.reset()
        program.forward(ops, model.spec, Weights(model.tensors), windows[start : start + BATCH])
    ops.reset()


class Inputs(NumpyOps):
    """The reference interpreter that shows what is multiplied by matrices; the head's logits are never computed.

    see(x, role) is called once for an input, under the first of the matrices that read it: query, key and value have one.
    """

    def __init__(self, tensors: Mapping[str, Tensor], see: Callable[[Floats, str], None]) -> None:
        super().__init__(tensors)
        self.first: dict[str, str] = {}
        """Role of a matrix -> the one under which its input is shown."""
        self._see = see
        self._last: tuple[Floats | None, str] = (None, "")

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        self._show(x, weight)
        return super().linear(x, weight, bias)

    def head(self, x: Floats, weight: str, cap: float | None = None) -> Floats:
        self._show(x, weight)
        return np.zeros((*x.shape[:-1], 1), np.float32)

    def reset(self) -> None:
        super().reset()
        self._last = (None, "")

    def _show(self, x: Floats, weight: str) -> None:
        if not roles.facts(weight).quantize:
            return
        if self._last[0] is not x:
            self._last = (x, weight)
            self._see(x, weight)
        self.first[weight] = self._last[1]
