"""What an artifact holds, matrix by matrix: bits for a weight, and how far its numbers lie from the source's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core import plugins, receipt, roles
from slmops.core.model import Model
from slmops.core.scheme import Packed, stored_as
from slmops.core.tensor import Tensor, elements

SAMPLE, SLICES = 1 << 20, 4
"""Weights of a matrix that are compared at most, and the slices of rows, evenly spaced, that they come in."""


@dataclass(frozen=True)
class Held:
    """One matrix as an artifact holds it."""

    role: str
    shape: tuple[int, ...]
    stored: str
    """The scheme or dtype, as the format's own reader finds it."""
    bits: float
    """For each weight, scales and zero points included."""
    error: float | None
    """Root of the squared error over that of the source's numbers (0.1: 10 %); None without a source of the same shape."""
    nats: float | None = None
    """What that costs in KL divergence, nats a token, where the receipt says it: by gradients, before any measurement."""


def held(folder: Path, source: Model | None = None) -> list[Held]:
    """The matrices of an artifact, in the model's order. `source`: the model that it was made from, for the errors.

    Reads at most SAMPLE weights of each. Raises what the format's reader raises.
    """
    facts = receipt.load(folder)
    model: Model = plugins.load("formats", facts["format"]).read(folder)
    told = facts.get("sensitivities")
    nats = told if isinstance(told, dict) else {}
    multiple = math.lcm(model.spec.row_multiple, source.spec.row_multiple if source else 1)
    found = []
    for role, tensor in model.tensors.items():
        if not roles.facts(role).quantize:
            continue
        size = tensor.scheme.nbytes(tensor.shape) if isinstance(tensor, Packed) else None
        bits = 8 * size / elements(tensor.shape) if size is not None else 8.0 * tensor.dtype.itemsize
        origin = source.tensors.get(role) if source else None
        same = origin is not None and origin.shape == tensor.shape
        error = _error(tensor, origin, multiple) if origin is not None and same else None
        cost = nats.get(role)
        found.append(Held(role, tensor.shape, stored_as(tensor), bits, error, cost if isinstance(cost, float) else None))
    return found


def _error(tensor: Tensor, origin: Tensor, multiple: int) -> float:
    away = whole = 0.0
    for start, stop in _slices(tensor.shape, multiple):
        true = origin.rows(start, stop).astype(np.float32)
        away += float(np.square(tensor.rows(start, stop).astype(np.float32) - true).sum(dtype=np.float64))
        whole += float(np.square(true).sum(dtype=np.float64))
    return math.sqrt(away / whole) if whole else 0.0


def _slices(shape: tuple[int, ...], multiple: int) -> Iterator[tuple[int, int]]:
    rows = shape[0]
    if elements(shape) <= SAMPLE:
        yield 0, rows
        return
    step = max(multiple, SAMPLE // SLICES // shape[1] // multiple * multiple)
    for number in range(min(SLICES, rows // step)):
        start = number * (rows - step) // max(1, SLICES - 1) // multiple * multiple
        yield start, start + step
