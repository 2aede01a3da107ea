"""Put an adapter into the weights, or let it stand beside them."""

from __future__ import annotations

import dataclasses

import numpy as np

from slmops.core.adapter import Adapter, Pair
from slmops.core.errors import Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import Array, Lazy, Tensor
from slmops.quantize._cast import cast


def merge(model: Model, adapter: Adapter) -> Model:
    """W + scale * B @ A for every matrix that the adapter changes, computed in f32 and rounded once to the dtype of W.

    Nothing is computed here: each block of rows is merged when it is pulled. Raises Unsupported for matrices that are codes.
    """
    tensors = dict(model.tensors)
    for role, pair in adapter.pairs.items():
        if isinstance(tensors[role], Packed):
            raise Unsupported(
                f"{role} is quantized already, and a LoRA cannot be merged into codes",
                "merge it into the unquantized checkpoint, or write it beside with --beside",
            )
        tensors[role] = _merged(tensors[role], pair)
    note = f"merged: {adapter.name}, {len(adapter.pairs)} matrices"
    source = {**model.source, "adapter": adapter.digest, "notes": (*model.source.get("notes", ()), note)}
    return dataclasses.replace(model, tensors=tensors, source=source)


def beside(model: Model, adapter: Adapter) -> Model:
    """The model with the adapter beside its weights, for the formats that have a file for it.

    Raises Unsupported for a model with steps: they were told without the adapter, and channels were evened out for them.
    """
    if model.steps:
        raise Unsupported(
            "activations of this model are rounded by steps, and no adapter goes beside them",
            "take w8a8, or merge the adapter into the checkpoint: slmops convert MODEL --adapter FOLDER",
        )
    return dataclasses.replace(model, adapter=adapter, source={**model.source, "adapter": adapter.digest})


def _merged(tensor: Tensor, pair: Pair) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        change = (pair.b[start:stop] @ pair.a) * np.float32(pair.scale)
        return cast(tensor.rows(start, stop).astype(np.float32) + change, tensor.dtype)

    return Lazy(tensor.shape, tensor.dtype, rows)
