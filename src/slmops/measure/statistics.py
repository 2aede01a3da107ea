"""Estimates with their intervals, and tests between two artifacts on the same samples. All intervals are 95 %.

Tokens of one text are not independent of each other, so errors are taken over clusters (windows of a text, cases of a
task): the mean's standard error is that of the clusters' sums (Cochran, Sampling Techniques, 3rd ed., 9.3 and 6.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core.tensor import Array

Z = 1.959963984540054
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, from so many samples in so many clusters."""

    value: float
    low: float
    high: float
    samples: int
    clusters: int

    @property
    def error(self) -> float:
        """Half of the interval as a standard error; infinite from one cluster."""
        return (self.high - self.low) / 2 / student(self.clusters - 1) if self.clusters > 1 else math.inf

    def through(self, function: Callable[[float], float]) -> Estimate:
        """The same of an increasing function of the figure, such as exp."""
        return Estimate(function(self.value), function(self.low), function(self.high), self.samples, self.clusters)


def student(freedom: int) -> float:
    """The 0.975 quantile of Student's t (Abramowitz and Stegun 26.7.5); exact for one and two degrees of freedom."""
    if freedom < 1:
        return math.inf
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z, v = Z, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def mean(values: Sequence[float] | Array, clusters: Sequence[int] | None = None) -> Estimate:
    """The mean of all values; `clusters` are the lengths of runs that belong together (each value alone by default)."""
    numbers = np.asarray(values, np.float64)
    sums, sizes = _sums(numbers, clusters)
    if not numbers.size:
        return Estimate(math.nan, -math.inf, math.inf, 0, 0)
    # A ratio of sums over clusters: its error is that of their residuals.
    return dataclasses.replace(ratio(sums, sizes), samples=numbers.size)


def ratio(above: Array, below: Array) -> Estimate:
    """The sum of `above` over the sum of `below`, of which each pair is a cluster."""
    count, middle = len(above), float(above.sum() / below.sum())
    if count < 2:
        return Estimate(middle, -math.inf, math.inf, count, count)
    error = math.sqrt(float(np.square(above - middle * below).sum()) * count / (count - 1)) / float(below.sum())
    half = student(count - 1) * error
    return Estimate(middle, middle - half, middle + half, count, count)


def quotient(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a over the mean of b, two independent samples of positive figures (on a log scale, Welch 1947)."""
    logs = [np.log(np.asarray(values, np.float64)) for values in (a, b)]
    middle, count = float(logs[0].mean() - logs[1].mean()), min(len(a), len(b))
    if count < 2:
        return Estimate(math.exp(middle), 0.0, math.inf, len(a) + len(b), count)
    shares = [float(values.var(ddof=1)) / len(values) for values in logs]
    spread = sum(share**2 / (len(values) - 1) for share, values in zip(shares, logs, strict=True))
    freedom = max(1, int(sum(shares) ** 2 / spread)) if spread else count - 1
    half = student(freedom) * math.sqrt(sum(shares))
    return Estimate(middle, middle - half, middle + half, len(a) + len(b), freedom + 1).through(math.exp)


def quantile(
    values: Sequence[float] | Array, share: float, clusters: Sequence[int] | None = None, seed: int = 0
) -> Estimate:
    """A quantile of all values; the interval by resampling clusters."""
    numbers = np.asarray(values, np.float64)
    parts = np.split(numbers, np.cumsum(_lengths(numbers, clusters))[:-1])
    if len(parts) < 2:
        return Estimate(float(np.quantile(numbers, share)), -math.inf, math.inf, numbers.size, len(parts))
    random = np.random.default_rng(seed)
    drawn = [
        float(np.quantile(np.concatenate([parts[one] for one in random.integers(0, len(parts), len(parts))]), share))
        for _ in range(RESAMPLES // 10)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(np.quantile(numbers, share)), float(low), float(high), numbers.size, len(parts))


def trend(values: Sequence[float] | Array) -> Estimate:
    """Growth from each value to the next: the median of the slopes of all pairs (Theil 1950), Sen's interval (1968).

    A few outliers or one early step do not move it, so it suits memory over requests; errors must not follow each other.
    """
    numbers = np.asarray(values, np.float64)
    count = len(numbers)
    if count < 3:
        return Estimate(math.nan, -math.inf, math.inf, count, count)
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((numbers[second] - numbers[first]) / (second - first))
    # Kendall's variance of the number of rising pairs, less what ties take from it.
    ties = np.unique(numbers, return_counts=True)[1].astype(np.float64)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    away = Z * math.sqrt(max(0.0, variance))
    low = max(0, round((len(slopes) - away) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + away) / 2))
    return Estimate(float(np.median(slopes)), float(slopes[low]), float(slopes[high]), count, count)


def proportion(right: int, cases: int) -> Estimate:
    """A share with Wilson's interval (1927)."""
    if not cases:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    z2, share = Z**2, right / cases
    middle, half = share + z2 / (2 * cases), Z * math.sqrt(share * (1 - share) / cases + z2 / (4 * cases * cases))
    return Estimate(share, (middle - half) / (1 + z2 / cases), (middle + half) / (1 + z2 / cases), cases, cases)


def paired(a: Sequence[float] | Array, b: Sequence[float] | Array, clusters: Sequence[int] | None = None) -> Estimate:
    """The mean of a - b over the same samples."""
    return mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), clusters)


def bootstrap(
    a: Sequence[float] | Array, b: Sequence[float] | Array, clusters: Sequence[int] | None = None, seed: int = 0
) -> Estimate:
    """The mean of a - b over the same samples, its interval by resampling clusters (Efron's percentiles)."""
    sums, sizes = _sums(np.asarray(a, np.float64) - np.asarray(b, np.float64), clusters)
    if not len(sums):
        return Estimate(math.nan, -math.inf, math.inf, 0, 0)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), int(sizes.sum()), len(sums))


@dataclass(frozen=True)
class McNemar:
    """Two artifacts on the same cases: how often only one of them was right."""

    only_a: int
    only_b: int
    cases: int
    p: float
    """Two-sided, exact: of a fair coin thrown once for each case on which they differ."""
    difference: Estimate
    """Share right of a, less that of b (Agresti and Min 2005: half a case added to each cell)."""


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Compare right answers, case by case. Raises ValueError where the cases are not the same."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    differ, cases = only_a + only_b, len(a)
    tail = sum(math.comb(differ, k) for k in range(min(only_a, only_b) + 1)) / 2**differ
    plus_a, plus_b, count = only_a + 0.5, only_b + 0.5, cases + 2
    middle = (plus_a - plus_b) / count
    half = Z * math.sqrt(max(0.0, plus_a + plus_b - (plus_a - plus_b) ** 2 / count)) / count
    value = (only_a - only_b) / cases if cases else math.nan
    found = Estimate(value, max(-1.0, middle - half), min(1.0, middle + half), cases, cases)
    return McNemar(only_a, only_b, cases, min(1.0, 2 * tail), found)


def more_samples(found: Estimate, bound: float) -> int | None:
    """How many more clusters until the interval clears a bound, if the figure stays; None where it sits on the bound."""
    if found.low > bound or found.high < bound:
        return 0
    away = abs(found.value - bound)
    if not math.isfinite(found.error) or away == 0 or math.isnan(away):
        return None
    return max(1, math.ceil((Z * found.error / away) ** 2 * found.clusters) - found.clusters)


def _lengths(numbers: Array, clusters: Sequence[int] | None) -> list[int]:
    lengths = [1] * numbers.size if clusters is None else list(clusters)
    if sum(lengths) != numbers.size or min(lengths, default=1) < 1:
        raise ValueError(f"clusters of {sum(lengths)} samples for {numbers.size}")
    return lengths


def _sums(numbers: Array, clusters: Sequence[int] | None) -> tuple[Array, Array]:
    lengths = np.asarray(_lengths(numbers, clusters), np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return (np.add.reduceat(numbers, starts) if numbers.size else numbers), lengths.astype(np.float64)
