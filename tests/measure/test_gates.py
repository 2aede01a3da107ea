"""Gates: what passes, what fails, what cannot be decided and says how much more it needs."""

from __future__ import annotations

import dataclasses

import pytest

from slmops.measure import gates
from slmops.measure.artifact import Measured
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.statistics import Estimate
from slmops.measure.tasks import Answers

GUESS = Estimate(1.0, 0.9, 1.1, 100, 10)


def measured(low: float = 0.97, high: float = 0.99, decode: float = 20.0, spread: float = 0.1, peak: int = 500) -> Measured:
    middle = (low + high) / 2
    retained = Estimate(middle, low, high, 1000, 30)
    quality = Quality(GUESS, 0.1, GUESS, GUESS, GUESS, 1.0, retained, None, 1000, 30)
    speed = Speed(0.1, decode, 100.0, spread, 10, 64, 3, (decode * 0.98, decode, decode * 1.02))
    return Measured("out", "gguf", "q4", "llamacpp", 400, quality, None, speed, peak, 300, 0.5, base=100)


@pytest.mark.parametrize(
    ("low", "high", "passed"), [(0.96, 0.98, True), (0.95, 0.96, True), (0.90, 0.94, False), (0.94, 0.97, None)]
)
def test_quality_needs_the_whole_interval(low: float, high: float, passed: bool | None) -> None:
    (verdict,) = gates.quality(measured(low, high))
    assert verdict.passed is passed and verdict.stops == (passed is not True) and "30 windows" in verdict.said
    if passed is None:
        assert "more windows would decide it" in verdict.said


def test_no_text_is_no_pass() -> None:
    (verdict,) = gates.quality(dataclasses.replace(measured(), quality=None))
    assert verdict.stops and "--text" in verdict.said


def test_tasks_are_compared_case_by_case() -> None:
    right = (True,) * 180 + (False,) * 20
    parent = dataclasses.replace(measured(), answers=Answers(right, ("",) * 200))
    same = dataclasses.replace(measured(), answers=Answers(right, ("",) * 200))
    worse = dataclasses.replace(measured(), answers=Answers((True,) * 140 + (False,) * 60, ("",) * 200))
    few = dataclasses.replace(measured(), answers=Answers(right[:10], ("",) * 10))
    assert list(gates.quality(same, parent=parent))[1].passed is True
    assert list(gates.quality(worse, parent=parent))[1].passed is False
    assert list(gates.quality(few, parent=parent))[1].passed is None


def test_spread() -> None:
    assert gates.steady(measured(spread=0.4)).passed is True
    assert gates.steady(measured(spread=0.6)).stops
    assert gates.steady(dataclasses.replace(measured(), speed=None)).stops
    assert gates.steady(measured(spread=float("nan"))).stops


def test_against_the_baseline() -> None:
    baseline = measured(decode=8.0, peak=1100)
    assert gates.faster(measured(decode=20.0), baseline).passed is True
    assert gates.faster(measured(decode=16.0), baseline).passed is None
    assert gates.faster(measured(decode=10.0), baseline).passed is False
    assert not gates.faster(measured(decode=10.0), baseline).stops  # it advises
    assert gates.faster(measured(decode=10.0), baseline, blocks=True).stops
    assert gates.leaner(measured(peak=500), baseline).passed is True
    assert gates.leaner(measured(peak=700), baseline).passed is False
    assert "not applicable" in gates.leaner(measured(), baseline, cache=1000).said


def test_limits() -> None:
    verdicts = list(gates.limits(measured(decode=20.0), size=399, memory=500, speed=19.5))
    assert [one.passed for one in verdicts] == [False, True, None]
    assert [one.passed for one in gates.limits(measured(), size=400, memory=499, speed=10)] == [True, False, True]
    assert not list(gates.limits(measured(), None, None, None))


def test_nothing_can_pass_by_being_nan() -> None:
    nan = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    assert gates.at_least("x", nan, 0.0).stops
