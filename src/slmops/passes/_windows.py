"""A pass of a model over windows of a text, some at once, so that each weight is read once for many tokens."""

from __future__ import annotations

from slmops.core import plugins
from slmops.core.model import Model, Weights
from slmops.core.tensor import Array
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
