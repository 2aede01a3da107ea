"""Codes by what they do to a layer's output on calibration text, in place of rounding each to its nearest."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import Tensor, row_blocks
from slmops.quantize import _solve
from slmops.quantize._affine import Affine

CODE = "1"
"""Raised whenever the solver's codes change."""
DAMPING = 0.05
AT_ONCE = 3
"""Matrices whose factors are kept: threads work on neighbours."""


def able(quantized: Model, source: Model) -> list[str]:
    """Roles whose codes can be solved for: of a block-affine scheme with zero points, from plain numbers."""
    return [
        role
        for role, tensor in quantized.tensors.items()
        if isinstance(tensor, Packed) and isinstance(tensor.scheme, Affine) and not tensor.scheme.biased
        if not isinstance(source.tensors[role], Packed)
    ]


def solve(quantized: Model, source: Model, moments: Mapping[str, Path], cache: Path) -> Model:
    """The same model with solved codes for the roles that are `able` and have moments.

    quantized: what passes/quantize.py made of `source`. moments: files by role, of passes/calibrate.py. Nothing is
    computed here: a block is solved when it is pulled, and kept in `cache`, for it is pulled once for the files and once
    for the proof.
    """
    tensors: dict[str, Tensor] = dict(quantized.tensors)
    prepare = _Preparer(moments)
    for role in able(quantized, source):
        tensor = quantized.tensors[role]
        if role in moments and isinstance(tensor, Packed) and isinstance(tensor.scheme, Affine):
            tensors[role] = _solved(role, source.tensors[role], tensor.scheme, prepare, cache)
    return dataclasses.replace(quantized, tensors=tensors)


class _Preparer:
    """Moments damped and factored when a role's first block asks, by one thread, and kept for its neighbours."""

    def __init__(self, moments: Mapping[str, Path]) -> None:
        self._moments, self._lock = moments, threading.Lock()
        self._kept = functools.lru_cache(maxsize=AT_ONCE)(self._make)

    def __call__(self, role: str) -> _solve.Prepared:
        with self._lock:
            return self._kept(self._moments[role])

    @staticmethod
    def _make(path: Path) -> _solve.Prepared:
        return _solve.prepare(np.load(path, allow_pickle=False), DAMPING)


def _solved(role: str, source: Tensor, scheme: Affine, prepare: _Preparer, cache: Path) -> Packed:
    grid = list(row_blocks(source.shape))

    def part(start: int, stop: int) -> Codes:
        path = cache / f"{role}-{start}.npz"
        if not path.is_file():
            made = _solve.solve(scheme, source.rows(start, stop), prepare(role))
            temporary = cache / f"{role}-{start}.{threading.get_ident()}.npz"
            none = np.empty((0, 0), np.uint8)
            np.savez(temporary, codes=made.codes, scales=made.scales, zeros=none if made.zeros is None else made.zeros)
            temporary.replace(path)
            return made
        with np.load(path, allow_pickle=False) as held:
            return Codes(held["codes"], held["scales"], held["zeros"] if held["zeros"].size else None)

    def block(start: int, stop: int) -> Codes:
        parts = []
        for first, last in grid:
            if first < stop and start < last:
                whole, low, high = part(first, last), max(start, first) - first, min(stop, last) - first
                zeros = None if whole.zeros is None else whole.zeros[low:high]
                parts.append(Codes(whole.codes[low:high], whole.scales[low:high], zeros))
        if len(parts) == 1:
            return parts[0]
        zeros = None if parts[0].zeros is None else np.concatenate([one.zeros for one in parts if one.zeros is not None])
        return Codes(np.concatenate([one.codes for one in parts]), np.concatenate([one.scales for one in parts]), zeros)

    return Packed(source.shape, scheme, block)
