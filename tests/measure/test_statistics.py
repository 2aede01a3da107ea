"""Intervals and tests against published tables and examples."""

from __future__ import annotations

import math
import statistics as standard
from collections.abc import Callable

import numpy as np
import pytest

from slmops.core.tensor import Array
from slmops.measure import statistics

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 20: 2.086, 30: 2.042, 120: 1.980}
"""Student's t, 0.975 (any textbook's table)."""


@pytest.mark.parametrize("freedom", TABLE)
def test_student(freedom: int) -> None:
    assert statistics.student(freedom) == pytest.approx(TABLE[freedom], abs=0.004)
    assert statistics.student(0) == math.inf


def test_the_mean_of_independent_values() -> None:
    """Against Python's own standard deviation."""
    values = [3.1, 4.7, 2.2, 8.8, 5.0, 4.1]
    found = statistics.mean(values)
    error = standard.stdev(values) / math.sqrt(len(values))
    assert found.value == pytest.approx(standard.mean(values)) and found.error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(TABLE[5] * error, rel=1e-3)
    assert (found.samples, found.clusters) == (6, 6)


def test_copies_of_a_value_tell_nothing_new() -> None:
    """Each value ten times, as one cluster each: the interval stays; taken as independent it would shrink threefold."""
    values = [3.1, 4.7, 2.2, 8.8, 5.0, 4.1]
    once, copied = statistics.mean(values), np.repeat(values, 10)
    kept = statistics.mean(copied, [10] * 6)
    assert (kept.low, kept.high) == pytest.approx((once.low, once.high)) and kept.samples == 60
    assert statistics.mean(copied).error < 0.4 * once.error


def test_intervals_cover_as_often_as_they_say() -> None:
    """Means of clusters whose members share a part, 400 times: 95 % of the intervals hold the truth, within 3.3 errors."""
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        values = (random.standard_normal((12, 1)) + random.standard_normal((12, 8))).reshape(-1)
        found = statistics.mean(values, [8] * 12)
        held += found.low <= 0 <= found.high
    assert abs(held / 400 - 0.95) < 0.036


def test_bootstrap_agrees_with_the_formula() -> None:
    random = np.random.default_rng(1)
    a, b = random.standard_normal((2, 400))
    lengths = [10] * 40
    formula, drawn = statistics.paired(a, b, lengths), statistics.bootstrap(a, b, lengths)
    assert drawn.value == pytest.approx(formula.value)
    assert drawn.high - drawn.low == pytest.approx(formula.high - formula.low, rel=0.12)


def test_wilson() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 17, 1998, table I)."""
    found = statistics.proportion(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert (statistics.proportion(0, 0).low, statistics.proportion(0, 0).high) == (0.0, 1.0)


def test_mcnemar() -> None:
    """Approval of a prime minister, asked twice (Agresti, Categorical Data Analysis, 2nd ed., table 10.1): 794 yes both
    times, 150 yes then no, 86 no then yes, 570 no both times; the difference 0.04, from 0.020 to 0.060."""
    a = [True] * 794 + [True] * 150 + [False] * 86 + [False] * 570
    b = [True] * 794 + [False] * 150 + [True] * 86 + [False] * 570
    found = statistics.mcnemar(a, b)
    assert (found.only_a, found.only_b, found.cases) == (150, 86, 1600)
    assert found.difference.value == pytest.approx(0.04)
    assert (round(found.difference.low, 2), round(found.difference.high, 2)) == (0.02, 0.06)
    assert 1e-5 < found.p < 1e-4
    assert statistics.mcnemar([True] * 5, [True] * 5).p == 1
    # Six to none: twice (1/2)^6.
    assert statistics.mcnemar([True] * 6, [False] * 6).p == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match="zip"):
        statistics.mcnemar([True], [])


def test_quantiles() -> None:
    values = np.arange(1000.0)
    found = statistics.quantile(values, 0.5, [10] * 100)
    assert found.value == pytest.approx(499.5) and found.low < 499.5 < found.high


def test_how_many_more() -> None:
    """The interval shrinks with the root of the clusters: to half its width takes four times as many."""
    found = statistics.Estimate(1.0, 1.0 - statistics.Z * 0.2, 1.0 + statistics.Z * 0.2, 100_000, 100_000)
    away = statistics.Z * found.error / 2
    assert statistics.more_samples(found, 1.0 + away) == pytest.approx(300_000, rel=0.001)
    assert statistics.more_samples(found, 2.0) == 0 and statistics.more_samples(found, 1.0) is None
    assert statistics.more_samples(statistics.mean([1.0]), 2.0) is None


def test_one_cluster_says_nothing() -> None:
    found = statistics.mean([1.0, 2.0, 3.0], [3])
    assert found.value == 2 and (found.low, found.high) == (-math.inf, math.inf) and found.error == math.inf
    with pytest.raises(ValueError, match="clusters"):
        statistics.mean([1.0, 2.0], [3])


def test_the_quotient_of_two_samples() -> None:
    """Welch's interval on logs, against his own formula worked by hand: means of ln 2 apart."""
    a, b = [2 * np.e**x for x in (-0.1, 0.0, 0.1)], [np.e**x for x in (-0.2, 0.0, 0.2)]
    found = statistics.quotient(a, b)
    assert found.value == pytest.approx(2)
    # Variances 0.01 and 0.04 of three each; (0.05/3)^2 / ((0.01/3)^2/2 + (0.04/3)^2/2) = 2.94, so two degrees of freedom.
    half = TABLE[2] * math.sqrt(0.05 / 3)
    assert math.log(found.high / 2) == pytest.approx(half, rel=1e-3) and math.log(2 / found.low) == pytest.approx(
        half, rel=1e-3
    )
    assert statistics.quotient([3.0], [1.0]).high == math.inf
    assert statistics.quotient([4.0, 4.0], [2.0, 2.0]).low == pytest.approx(2)


def test_a_trend_by_sen() -> None:
    """Evenly spaced figures worked by scipy 1.17's theilslopes: 12 of a random walk, and 6 that rise by two."""
    walk = [0.4, 1.7, 2.6, 1.9, 0.6, 0.0, 0.1, -2.3, -2.5, -3.7, -4.5, -5.0]
    found = statistics.trend(walk)
    assert (found.value, found.low, found.high) == pytest.approx((-0.75416667, -0.9, -0.49090909))
    assert statistics.trend([1.0, 3.0, 5.0, 7.0, 9.0, 11.0]).low == pytest.approx(2)
    flat = statistics.trend([70.0] * 40)
    assert (flat.value, flat.low, flat.high) == (0, 0, 0)
    # One step at the beginning, as of an allocator that takes its fill, is no trend.
    assert statistics.trend([60.0, 65.0, *[70.0] * 38]).high == 0
    assert statistics.trend([1.0, 2.0]).high == math.inf


def coverage(estimate: Callable[[np.random.Generator], statistics.Estimate], truth: float, times: int = 400) -> float:
    """Share of 95 % intervals that hold the truth. The share's own error at 0.95 is 0.011 of 400."""
    random = np.random.default_rng(3)
    found = [estimate(random) for _ in range(times)]
    return sum(one.low <= truth <= one.high for one in found) / times


def test_intervals_of_the_gates_cover_as_often_as_they_say() -> None:
    """With figures as skewed as losses of tokens (lognormal) and with the sample sizes that gates have."""

    def losses(random: np.random.Generator) -> tuple[Array, Array]:
        shared = random.lognormal(0, 1, (32, 1)) * random.lognormal(0, 0.5, (32, 40))
        return (shared * 1.02 + random.normal(0, 0.05, shared.shape)).ravel(), shared.ravel()

    def paired(random: np.random.Generator) -> statistics.Estimate:
        worse, known = losses(random)
        return statistics.paired(worse, known, [40] * 32)

    def drawn(random: np.random.Generator) -> statistics.Estimate:
        worse, known = losses(random)
        return statistics.bootstrap(worse, known, [40] * 32)

    truth = 0.02 * math.exp(0.5) * math.exp(0.125)
    assert coverage(paired, truth) > 0.90
    assert coverage(drawn, truth, 200) > 0.88
    assert coverage(lambda random: statistics.trend(np.arange(16) + random.normal(0, 3, 16)), 1.0) > 0.92
    noisy = coverage(lambda random: statistics.quotient(*random.lognormal(0, 0.3, (2, 5))), 1.0)
    assert noisy > 0.92
    assert coverage(lambda random: statistics.proportion(int(random.binomial(120, 0.93)), 120), 0.93) > 0.92
