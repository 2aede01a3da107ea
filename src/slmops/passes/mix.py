"""Bits per tensor under a budget: which scheme each matrix gets, so that the model's predictions move least.

What a scheme costs a matrix is 1/2 sum over rows of d H d', with d the error of rounding and H the gradient-weighted moments
(passes/_fisher.py): about its share of the KL divergence, and small shares add up. One scheme for each matrix within the
budget is a multiple-choice knapsack, solved over bytes in small units. Moments without weights would not do: they say
nothing of what a layer's error does further on, and a mix by them was worse than llama.cpp's fixed ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slmops.core import roles, scheme
from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.core.scheme import Chooser, Scheme
from slmops.core.spec import Spec
from slmops.core.tensor import Array, Floats, Tensor, elements, row_blocks
from slmops.passes._moments import Moments, load
from slmops.quantize import _affine, _solve

ROWS = 64
"""Of each kind of rows, looked at."""
UNITS = 1 << 15
"""Into which the budget is cut."""
_NAME = re.compile(r"mixed:(\d{1,2}(?:\.\d{1,6})?)bpw")


def bits(name: str) -> float | None:
    """Of mixed:4.5bpw, the bits for each weight of the matrices, scales included; None for another scheme's name."""
    if not name.startswith("mixed"):
        return None
    found = _NAME.fullmatch(name)
    if found is None or not 1 <= float(found[1]) <= 16:
        raise UsageError(f"{name!r} says no bits for each weight", "such as mixed:4.5bpw, from 1 to 16")
    return float(found[1])


def weights(model: Model) -> int:
    """Numbers of the matrices that a mix deals with."""
    return sum(elements(tensor.shape) for role, tensor in model.tensors.items() if roles.facts(role).quantize)


def mix(model: Model, names: Sequence[str], per_weight: float, moments: Mapping[str, Moments]) -> Chooser:
    """The scheme of each matrix, among `names`, within `per_weight` bits for each weight of all of them.

    moments: weighted by gradients. Raises UsageError where even the smallest schemes take more.
    """
    shapes = {role: tensor.shape for role, tensor in model.tensors.items() if roles.facts(role).quantize}
    known = [_affine.parse(name) or scheme.load(name) for name in names]
    tables = {}
    for role, shape in shapes.items():
        able = [one for one in known if shape[-1] % one.group == 0]
        errors = _errors(model.tensors[role], able, moments[role])
        tables[role] = [(one, one.nbytes(shape), error) for one, error in zip(able, errors, strict=True)]
    budget = per_weight * weights(model) / 8
    least = sum(min(size for _, size, _ in table) for table in tables.values())
    if least > budget:
        needed = 8 * least / weights(model)
        raise UsageError(f"the smallest mix takes {needed:.2f} bits for each weight, {per_weight:g} are allowed",
                         f"mixed:{math.ceil(needed * 100) / 100:g}bpw")  # fmt: skip
    chosen = knapsack([[(size, error) for _, size, error in table] for table in tables.values()], budget)
    found = {role: table[which][0] for (role, table), which in zip(tables.items(), chosen, strict=True)}

    def choose(role: str, spec: Spec, shape: tuple[int, ...]) -> Scheme:
        return found[role]

    return choose


def knapsack(tables: Sequence[Sequence[tuple[int, float]]], budget: float) -> list[int]:
    """One of each table's (bytes, cost), at the least cost in all within the budget: their places.

    Bytes count in units of budget / UNITS, rounded to the nearest; the best sum of them that keeps the budget byte for byte
    is taken.
    """
    unit = budget / UNITS
    best = np.full(UNITS + 1, np.inf)
    best[0] = 0.0
    choices = []
    for table in tables:
        after, choice = np.full(UNITS + 1, np.inf), np.zeros(UNITS + 1, np.int16)
        for place, (size, cost) in enumerate(table):
            width = round(size / unit)
            if width <= UNITS:
                costs = best[: UNITS + 1 - width] + cost
                better = costs < after[width:]
                after[width:][better] = costs[better]
                choice[width:][better] = place
        best = after
        choices.append((choice, table))
    for end in np.argsort(best, kind="stable").tolist():
        found, at = [], end
        for choice, table in reversed(choices):
            found.append(int(choice[at]))
            at -= round(table[found[-1]][0] / unit)
        found.reverse()
        if sum(table[place][0] for table, place in zip(tables, found, strict=True)) <= budget:
            return found
    raise ValueError(f"nothing fits into {budget:.0f} bytes")


def sensitivities(packed: Model, source: Model, moments: Mapping[str, Moments]) -> dict[str, float]:
    """What the error of each matrix that is codes in `packed` costs in KL divergence, nats a token, by a sample of rows.

    moments: weighted by gradients. Shares of many matrices add up as long as they are small.
    """
    found = {}
    for role, held in moments.items():
        tensor = packed.tensors[role]
        if isinstance(tensor, scheme.Packed):
            found[role] = 0.0
            for rows, weighed, share in _sampled(held):
                errors = _of_codes(tensor, rows) - _rows(source.tensors[role], rows)
                found[role] += share * _solve.loss(errors, weighed)
    return found


def _errors(tensor: Tensor, able: Sequence[Scheme], held: Moments) -> list[float]:
    """What rounding to each scheme costs a matrix, by a sample of its rows."""
    costs = np.zeros(len(able))
    for rows, moments, share in _sampled(held):
        values = _rows(tensor, rows)
        for place, one in enumerate(able):
            if one.dense is None:
                costs[place] += share * _solve.loss(one.dequantize(one.quantize(values)) - values, moments)
    return list(costs)


def _sampled(held: Moments) -> Iterator[tuple[Array, Floats, float]]:
    """For each kind of rows: some of them, its moments, and half of how many rows each stands for."""
    for kind in np.unique(held.kinds).tolist():
        members = np.flatnonzero(held.kinds == kind)
        sample = members[np.unique(np.linspace(0, len(members) - 1, min(ROWS, len(members))).astype(int))]
        yield sample, load(held.path, kind), len(members) / len(sample) / 2


def _rows(tensor: Tensor, rows: Array) -> Floats:
    return np.concatenate([tensor.rows(row, row + 1) for row in rows.tolist()]).astype(np.float32)


def _of_codes(tensor: scheme.Packed, rows: Array) -> Floats:
    """The same of codes that are kept in blocks, of which each is opened once."""
    found = []
    for start, stop in row_blocks(tensor.shape):
        if (here := rows[(rows >= start) & (rows < stop)]).size:
            codes = tensor.block(start, stop)
            found.append(tensor.scheme.dequantize(codes.cut(here - start)))
    return np.concatenate(found)
