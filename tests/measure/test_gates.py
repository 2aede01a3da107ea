"""Gates: what passes, what fails, what cannot be decided and says how much more it needs."""

from __future__ import annotations

import dataclasses

import pytest

from slmops.core.errors import UsageError
from slmops.measure import gates
from slmops.measure.artifact import Measured
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.statistics import Estimate
from slmops.measure.stress import Stability, Stress
from slmops.measure.tasks import Answers

GUESS = Estimate(1.0, 0.9, 1.1, 100, 10)


def measured(low: float = 0.97, high: float = 0.99, decode: float = 20.0, spread: float = 0.1, peak: int = 500) -> Measured:
    middle = (low + high) / 2
    retained = Estimate(middle, low, high, 1000, 30)
    quality = Quality(GUESS, 0.1, GUESS, GUESS, GUESS, 1.0, retained, None, 1000, 30)
    runs = (decode * 0.98, decode, decode * 1.02)
    speed = Speed(0.1, decode, 100.0, spread, 10, 64, 3, runs, first_tokens=(0.09, 0.1, 0.11))
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
    # A bound of the user's own stands in the place of ours.
    busy, own = measured(spread=0.6), [gates.parse("speed.spread<=2")]
    assert gates.varied(busy) and not gates.varied(busy, own) and gates.varied(measured(spread=3.0), own)
    assert "latency spread" in [one.gate for one in gates.default(busy)]
    assert "latency spread" not in [one.gate for one in gates.default(busy, asked=own)]


def test_against_the_baseline() -> None:
    baseline = measured(decode=8.0, peak=1100)
    assert gates.faster(measured(decode=20.0), baseline).passed is True
    assert gates.faster(measured(decode=16.0), baseline).passed is None
    assert gates.faster(measured(decode=10.0), baseline).passed is False
    assert not gates.faster(measured(decode=10.0), baseline).stops  # it advises
    assert gates.faster(measured(decode=10.0), baseline, blocks=True).stops
    assert gates.leaner(measured(peak=500), baseline).passed is True
    assert gates.leaner(measured(peak=700), baseline).passed is False
    idle = gates.leaner(measured(), baseline, cache=1000, blocks=True)
    assert "not applicable" in idle.said and not idle.applies and not idle.stops


def test_limits() -> None:
    verdicts = list(gates.limits(measured(decode=20.0), size=399, memory=500, speed=19.5))
    assert [one.passed for one in verdicts] == [False, True, None]
    assert [one.passed for one in gates.limits(measured(), size=400, memory=499, speed=10)] == [True, False, True]
    assert not list(gates.limits(measured(), None, None, None))


def test_nothing_can_pass_by_being_nan() -> None:
    nan = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    assert gates.at_least("x", nan, 0.0).stops


def share(value: float, half: float = 0.01, clusters: int = 40) -> Estimate:
    return Estimate(value, value - half, value + half, clusters, clusters)


STRESS = Stress(requests=19, faults=(), longest=512, at_once=1, looked=700)
STABILITY = Stability(requests=72, identical=72, growth=share(0.01), slowdown=share(0.0, 0.1))


def test_stress_and_stability() -> None:
    whole = dataclasses.replace(measured(), stress=STRESS, stability=STABILITY)
    assert [one.passed for one in gates.endured(whole)] == [True] * 4
    assert next(iter(gates.endured(measured()))).stops
    faulty = dataclasses.replace(whole, stress=dataclasses.replace(STRESS, faults=("one token: 0 tokens of 4 came",)))
    verdict = next(iter(gates.endured(faulty)))
    assert verdict.passed is False and "one token" in verdict.said
    dead = list(gates.endured(dataclasses.replace(faulty, stability=None)))
    assert [one.passed for one in dead] == [False, False]
    for change, gate in (
        ({"identical": 71}, "stability: answers"),
        ({"growth": share(0.2)}, "stability: memory that 1,000 requests add"),
        ({"slowdown": share(0.5)}, "stability: slowdown"),
    ):
        worse = dataclasses.replace(whole, stability=dataclasses.replace(STABILITY, **change))
        assert [one.gate for one in gates.endured(worse) if one.stops] == [gate]
    undecided = dataclasses.replace(whole, stability=dataclasses.replace(STABILITY, slowdown=share(0.2, 0.3)))
    (verdict,) = (one for one in gates.endured(undecided) if one.stops)
    assert verdict.passed is None and "more rounds would decide it" in verdict.said


def test_what_is_not_as_it_was_proven() -> None:
    (verdict,) = (one for one in gates.default(dataclasses.replace(measured(), altered="norm, rows 0 to 9")) if one.stops)
    assert (verdict.gate, verdict.passed) == ("as proven", False)


@pytest.mark.parametrize(
    ("text", "place", "bound"),
    [
        ("quality.kl<=0.02", "quality.kl", 0.02),
        ("kl <= 2e-2", "quality.kl", 0.02),
        ("peak<1GiB", "peak", 2**30),
        ("bytes <= 1.5 MB", "bytes", 1_500_000),
        ("speed.first_token<=50ms", "speed.first_token", 0.05),
        ("decode>=20tok/s", "speed.decode", 20),
        ("retained>97%", "quality.retained", 0.97),
        ("concurrency.4.itl.p99<=100ms", "concurrency.4.itl.p99", 0.1),
        ("speed.itl.p99<=100ms", "speed.itl.p99", 0.1),
        ("slowdown<=0.1", "stability.slowdown", 0.1),
    ],
)
def test_what_users_ask(text: str, place: str, bound: float) -> None:
    gate = gates.parse(text)
    assert (gate.place, gate.bound) == (place, pytest.approx(bound))
    assert gate.needs_endurance == (place == "stability.slowdown")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kl", "METRIC OP NUMBER"),
        ("kl<=", "METRIC OP NUMBER"),
        ("kl<=0.02; import os", "METRIC OP NUMBER"),
        ("__class__<=1", "quality.kl, "),
        ("kl.mean<=0.02", "quality.kl, "),
        ("p99<=1s", "concurrency.N.itl.p99"),
        ("concurrency.itl.p99<=1s", "quality.kl, "),
        ("throughput>=9", "say of how many requests"),
        ("peak<=3parsec", "gib"),
    ],
)
def test_what_is_no_gate(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gates.parse(text)
    assert said in caught.value.cure


def test_the_users_gates() -> None:
    wanted = [gates.parse(text) for text in ("peak<=499", "peak<=500", "decode>=19", "decode>=20", "kl<2", "load<=1s")]
    assert [one.passed for one in gates.added(measured(), wanted)] == [False, True, True, None, True, True]
    (absent,) = gates.added(measured(), [gates.parse("concurrency.4.throughput>=9")])
    assert absent.stops and "was not taken" in absent.said
    (exact,) = gates.added(measured(), [gates.parse("peak<500")])
    assert exact.passed is False and "1 measurement" in exact.said


def test_what_is_required() -> None:
    baseline = measured(decode=8.0, peak=1100)
    assert not any(one.stops for one in gates.against(measured(decode=10.0, peak=900), baseline))
    both = list(gates.against(measured(decode=10.0, peak=900), baseline, ("speed", "memory")))
    assert [one.stops for one in both] == [True, True]
    assert [one.stops for one in gates.against(measured(), None, ("speed",))] == [True]
    raced = next(iter(gates.against(measured(), baseline, raced=share(2.5))))
    assert raced.passed is True and "pairs" in raced.said
