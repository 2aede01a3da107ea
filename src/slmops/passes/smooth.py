"""Even out the channels of what matrices are multiplied by: the same function, whose activations bear one step for all.

A channel's size moves from a matrix's input into the matrix: what makes the input (a norm's weight, the rows of a gated
MLP's `up`) is divided by s, the columns that read it are multiplied by s = max|input|^SHARE / max|column|^(1 - SHARE), as in
Xiao et al., SmoothQuant (ICML 2023), 4.2; here a power of two, so that no number of the model changes but its exponent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slmops.core import roles
from slmops.core.model import Model
from slmops.core.tensor import DTYPES, Array, Floats, Lazy, Tensor, row_blocks
from slmops.ops.numpy import NumpyOps
from slmops.passes._windows import through
from slmops.quantize._cast import cast

CODE = "1"
"""Raised whenever the factors change."""
SHARE = 0.7
"""Of the differences between channels that moves into the matrices."""
SIGHT = 5
"""Arrays that are remembered: a norm's result is read by three matrices, or split parts by one."""
Maker = tuple[str, int]
"""A role, and the row of it that makes channel 0."""
MOST = 8
"""Exponent of the greatest factor, and of the least."""


@dataclasses.dataclass
class Site:
    """An input that several matrices share, and what makes it."""

    maker: str
    """A norm, or the matrix whose output is multiplied by the gate."""
    first: int
    """The maker's row that makes channel 0."""
    largest: Floats
    """Of each channel."""
    readers: list[str]


def smooth(model: Model, windows: Array) -> Model:
    """The model with factors moved wherever its program shows who makes an input. windows: ids [count, length].

    Numbers that change become f32. Nothing is computed here but a pass of the reference interpreter and each column's
    greatest magnitude: a block is multiplied when it is pulled.
    """
    watching = _Watching(model.tensors)
    through(watching, model, windows)
    tensors = dict(model.tensors)
    for site in watching.sites():
        factors = _factors(site.largest, [tensors[role] for role in site.readers])
        for role in site.readers:
            tensors[role] = _columns(tensors[role], factors)
        rows = slice(site.first, site.first + len(factors))
        offset = model.spec.norm_offset if roles.is_norm(site.maker) else 0.0
        for role in (site.maker, f"{site.maker}.bias"):
            if role in tensors:
                tensors[role] = _rows(tensors[role], rows, np.reciprocal(factors), offset)
    return dataclasses.replace(model, tensors=tensors)


def _factors(largest: Floats, readers: Sequence[Tensor]) -> Floats:
    """A power of two for each channel; channels that are always zero keep their size."""
    columns = np.zeros(largest.shape, np.float32)
    for tensor in readers:
        for start, stop in row_blocks(tensor.shape):
            columns = np.maximum(columns, np.abs(tensor.rows(start, stop).astype(np.float32)).max(axis=0, initial=0.0))
    used = (largest > 0) & (columns > 0)
    if not used.any():
        return np.ones(largest.shape, np.float32)
    exponents = np.zeros(largest.shape)
    exponents[used] = SHARE * np.log2(largest[used]) - (1 - SHARE) * np.log2(columns[used])
    exponents[used] -= exponents[used].mean()
    return np.asarray(np.exp2(np.clip(np.rint(exponents), -MOST, MOST)), np.float32)


def _columns(tensor: Tensor, factors: Floats) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        return cast(tensor.rows(start, stop), DTYPES["f32"]) * factors

    return Lazy(tensor.shape, DTYPES["f32"], rows)


def _rows(tensor: Tensor, changed: slice, factors: Floats, offset: float) -> Tensor:
    """Rows of a matrix, or elements of a vector (which multiplies with `offset` added), times factors."""
    every = np.ones(tensor.shape[0], np.float32)
    every[changed] = factors
    every = every.reshape(-1, *[1] * (len(tensor.shape) - 1))

    def rows(start: int, stop: int) -> Array:
        numbers = cast(tensor.rows(start, stop), DTYPES["f32"])
        if not offset:
            return numbers * every[start:stop]
        return np.asarray((numbers + np.float32(offset)) * every[start:stop] - np.float32(offset), np.float32)

    return Lazy(tensor.shape, DTYPES["f32"], rows)


class _Watching(NumpyOps):
    """The reference interpreter that sees which array comes from where: a norm's, and a gated MLP's, by their identity.

    What attention reads no matrix reads.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self._found: dict[Maker, Site] = {}
        self._others: set[Maker] = set()
        """Makers whose numbers go elsewhere too: what they make must stay as it is."""
        self._made: list[tuple[Floats, Maker]] = []
        """The last arrays."""

    def sites(self) -> Iterator[Site]:
        """What may be evened out."""
        return (site for maker, site in self._found.items() if maker not in self._others)

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        maker = self._maker(x)
        if maker is not None and roles.layer(weight) is not None:
            site = self._found.setdefault(maker, Site(*maker, np.zeros(x.shape[-1], np.float32), []))
            site.largest = np.maximum(site.largest, np.abs(x).reshape(-1, x.shape[-1]).max(axis=0))
            if weight not in site.readers:
                site.readers.append(weight)
        else:
            self._goes_elsewhere(x)
        return self._remember(super().linear(x, weight, bias), (weight, 0))

    def split(self, x: Floats, sizes: Sequence[int]) -> Sequence[Floats]:
        parts, maker = super().split(x, sizes), self._maker(x)
        for part, start in zip(parts, np.cumsum([0, *sizes]).tolist(), strict=False):
            if maker is not None:
                self._remember(part, (maker[0], maker[1] + start))
        return parts

    def norm(self, x: Floats, weight: str, eps: float, heads: int | None = None, offset: float = 0.0) -> Floats:
        self._goes_elsewhere(x)
        return self._remember(super().norm(x, weight, eps, heads, offset), (weight, 0))

    def gated(self, gate: Floats, up: Floats, activation: str) -> Floats:
        self._goes_elsewhere(gate)
        made, maker = super().gated(gate, up, activation), self._maker(up)
        return made if maker is None else self._remember(made, maker)

    def add(self, x: Floats, y: Floats) -> Floats:
        self._goes_elsewhere(x, y)
        return super().add(x, y)

    def scale(self, x: Floats, factor: float) -> Floats:
        self._goes_elsewhere(x)
        return super().scale(x, factor)

    def head(self, x: Floats, weight: str, cap: float | None = None) -> Floats:
        self._goes_elsewhere(x)
        return np.zeros((*x.shape[:-1], 1), np.float32)

    def _maker(self, x: Floats) -> Maker | None:
        return next((maker for array, maker in self._made if array is x), None)

    def _goes_elsewhere(self, *arrays: Floats) -> None:
        self._others.update(maker for array in arrays if (maker := self._maker(array)) is not None)

    def _remember(self, made: Floats, maker: Maker) -> Floats:
        self._made = [*self._made[-SIGHT:], (made, maker)]
        return made
