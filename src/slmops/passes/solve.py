"""Codes by what they do to a layer's output on calibration text, in place of rounding each to its nearest."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, joined
from slmops.core.tensor import Tensor, row_blocks
from slmops.passes._moments import Moments, load
from slmops.quantize import _solve

CODE = "2"
"""Raised whenever the solver's codes change."""
AT_ONCE = 3
"""Moments whose factors are kept: threads work on neighbours."""


def able(quantized: Model, source: Model) -> list[str]:
    """Roles whose codes can be solved for: of a scheme that can be taken apart, from plain numbers."""
    return [
        role
        for role, tensor in quantized.tensors.items()
        if isinstance(tensor, Packed) and _solve.solvable(tensor.scheme)
        if not isinstance(source.tensors[role], Packed)
    ]


def solve(quantized: Model, source: Model, moments: Mapping[str, Moments], cache: Path) -> Model:
    """The same model with solved codes for the roles that are `able` and have moments.

    quantized: what passes/quantize.py made of `source`. Nothing is computed here: a block is solved when it is pulled, and
    kept in `cache`, for it is pulled once for the files and once for the proof.
    """
    tensors: dict[str, Tensor] = dict(quantized.tensors)
    prepare = _Preparer()
    for role in able(quantized, source):
        tensor = quantized.tensors[role]
        if role in moments and isinstance(tensor, Packed) and (scheme := _solve.solvable(tensor.scheme)):
            tensors[role] = _solved(role, source.tensors[role], scheme, moments[role], prepare, cache)
    return dataclasses.replace(quantized, tensors=tensors)


class _Preparer:
    """Moments damped and factored when their first block asks, by one thread, and kept for its neighbours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = functools.lru_cache(maxsize=AT_ONCE)(self._make)

    def __call__(self, held: Moments, kind: int) -> _solve.Prepared:
        with self._lock:
            return self._kept(held.path, kind)

    @staticmethod
    def _make(path: Path, kind: int) -> _solve.Prepared:
        return _solve.prepare(load(path, kind))


def _solved(role: str, source: Tensor, scheme: _solve.Solvable, held: Moments, prepare: _Preparer, cache: Path) -> Packed:
    grid = list(row_blocks(source.shape))

    def make(start: int, stop: int) -> Codes:
        values, kinds = source.rows(start, stop), held.kinds[start:stop]
        parts, places = [], []
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            parts.append(_solve.solve(scheme, values[rows], prepare(held, kind)))
            places.append(rows)
        back = np.argsort(np.concatenate(places))
        return joined(parts).cut(back)

    def part(start: int, stop: int) -> Codes:
        path = cache / f"{role}-{start}.npz"
        if not path.is_file():
            made = make(start, stop)
            temporary = cache / f"{role}-{start}.{threading.get_ident()}.npz"
            np.savez(temporary, **{name: array for name, array in vars(made).items() if array is not None})
            temporary.replace(path)
            return made
        with np.load(path, allow_pickle=False) as kept:
            return Codes(**{name: kept[name] for name in kept.files})

    def block(start: int, stop: int) -> Codes:
        parts = []
        for first, last in grid:
            if first < stop and start < last:
                low, high = max(start, first) - first, min(stop, last) - first
                parts.append(part(first, last).cut(slice(low, high)))
        return joined(parts)

    return Packed(source.shape, scheme, block)
