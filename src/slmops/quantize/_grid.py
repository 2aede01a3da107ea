"""A scheme's codes apart from where they are stored: the numbers that a solver moves (quantize/_solve.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core.tensor import Bytes, Floats


@dataclass(frozen=True)
class Freedom:
    """Where a number may move to: whole numbers from `low` to `high`, or, with a `significand` of so many bits,
    any number whose magnitude lies between them."""

    low: float
    high: float
    significand: int = 0

    def nearest(self, values: Floats, old: Floats) -> Floats:
        """Where `values` may move to; `old` where that is out of bounds. Ties to even."""
        if not self.significand:
            return np.clip(np.rint(values), self.low, self.high)
        mantissas, exponents = np.frexp(values.astype(np.float64))
        whole = 2.0**self.significand
        found = np.ldexp(np.rint(mantissas * whole) / whole, exponents).astype(np.float32)
        sizes = np.abs(found)
        return np.where((sizes >= self.low) & (sizes <= self.high), found, old)


HALF = Freedom(2.0**-14, 65504.0, 11)
"""f16's normal numbers."""


@dataclass(frozen=True)
class Numbers:
    """One factor of the steps, or of the leasts, or the zeros: a number for every `width` columns."""

    values: Floats
    """[rows, columns / width]; a solver changes it in place."""
    width: int
    freedom: Freedom | None
    """None: they stay."""


@dataclass(frozen=True)
class Grid:
    """value = step * (level - zero) - least. Steps and leasts are products of their factors, of which one spans more
    columns than the other where scales have two levels; no factors of the least: 0."""

    codes: Bytes
    """[rows, columns], one a byte; a solver changes them in place."""
    levels: Floats
    """What code i stands for, rising."""
    group: int
    """Columns with one step, least and zero."""
    steps: tuple[Numbers, ...]
    leasts: tuple[Numbers, ...]
    zeros: Numbers

    def product(self, factors: Sequence[Numbers]) -> Floats:
        """[rows, groups]."""
        rows, columns = self.codes.shape
        result = np.full((rows, columns // self.group), np.float32(bool(factors)))
        for factor in factors:
            result *= np.repeat(factor.values, factor.width // self.group, axis=1)
        return result

    def values(self) -> Floats:
        """f32 [rows, columns], up to the rounding of the scheme's own order of operations."""
        return self._apart() * self._wide(self.product(self.steps)) - self._wide(self.product(self.leasts))

    def slopes(self) -> Iterator[tuple[Numbers, Floats]]:
        """Numbers that may move, and by how much each column's value changes with its number: f32 [rows, columns].

        Slopes are of the moment at which they are asked for: the caller moves numbers between one and the next.
        """
        for factors, signed in ((self.steps, True), (self.leasts, False)):
            for factor in factors:
                if factor.freedom is not None:
                    others = [one for one in factors if one is not factor]
                    rest = self.product(others) if others else np.ones_like(self.zeros.values)
                    yield factor, self._wide(rest) * self._apart() if signed else self._wide(-rest)
        if self.zeros.freedom is not None:
            yield self.zeros, self._wide(-self.product(self.steps))

    def _apart(self) -> Floats:
        return self.levels[self.codes] - self._wide(self.zeros.values)

    def _wide(self, values: Floats) -> Floats:
        return np.repeat(values, self.group, axis=1)
