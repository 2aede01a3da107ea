"""Forecasts: what a measurement of one candidate tells of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slmops import forecast, source
from slmops.forecast import Effect, Forecast


def test_two_candidates_that_share_an_effect() -> None:
    """The best linear prediction by hand: what is shared over all that varies, 4 / (4 + 1 + 0.25), of the surprise."""
    both = Forecast([1.0, 3.0], [Effect(2.0, [0, 0]), Effect(1.0, [0, 1])], 0.5)
    mean, covariance = both.given([0], [2.0])
    assert mean[1] == pytest.approx(3 + 4 / 5.25)
    assert covariance[1, 1] == pytest.approx(5 - 4 * 4 / 5.25)
    apart, _ = Forecast([1.0, 3.0], [Effect(2.0, ["a", "b"])], 0.5).given([0], [2.0])
    assert apart[1] == 3


def test_draws_have_the_moments_and_keep_what_was_measured() -> None:
    both = Forecast([0.0, 0.0], [Effect(2.0, [0, 0]), Effect(1.0, [0, 1])], 0.5)
    drawn = both.draw([], [], np.random.default_rng(0).standard_normal((50_000, 2)))
    np.testing.assert_allclose(np.cov(drawn.T), [[5, 4], [4, 5]], atol=0.15)
    assert (both.draw([0], [7.0], np.ones((4, 2)))[:, 0] == 7).all()


def test_errors_of_schemes_on_the_sample(sample: Path) -> None:
    """Uniform noise in steps of a group's greatest value over 8 has, for normal weights, about 1 % of their square; each
    further bit quarters it."""
    model = source.load(sample)
    error = {name: forecast.traits(model, name).error for name in ("q4", "q8", "f16", "q4_k_m", "q5_k", "q6_k")}
    assert 0.004 < error["q4"] < 0.012
    assert error["f16"] <= forecast.EXACT < error["q8"] < error["q6_k"] < error["q5_k"] < error["q4_k_m"] < error["q4"]
    assert 100 < error["q4"] / error["q8"] < 400  # 4 bits: 4^4
    assert forecast.traits(model, "q4").kind == "q4" and forecast.traits(model, "q4_k_m").kind == "q4_k"
    assert forecast.traits(model, "q4", solved=True).kind != "q4"
