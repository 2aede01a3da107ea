"""The decisions of the search, on made-up figures: no engine, no weight."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from slmops import search
from slmops.core.errors import UsageError
from slmops.forecast import Traits
from slmops.plan.decide import Candidate, Limits
from slmops.plan.memory import Memory
from slmops.search import Seen

BITS = {"f16": 16.0, "q8": 8.5, "q6": 6.6, "q5": 5.5, "mix": 5.2, "q4": 4.5, "q3": 3.4}
TRAITS = {name: Traits(4.0**-bits, name) for name, bits in BITS.items()}
ENGINES = {"quick": 1.5, "slow": 0.3, "middling": 0.9}
PARAMETERS = 500e6


def candidate(scheme: str, engine: str) -> Candidate:
    size = round(PARAMETERS * BITS[scheme] / 8)
    memory = Memory(f"of_{engine}", scheme, engine, 1024, size, 0, 200_000_000, (0.9, 1.1))
    return Candidate(f"of_{engine}", scheme, engine, size, BITS[scheme], memory, (0.0, 1e10 / size, math.inf))


ALL = [candidate(scheme, engine) for scheme in BITS for engine in ENGINES]


def truth(one: Candidate, limits: Limits = Limits(), lost: float = 0.05) -> Seen:  # noqa: B008
    """Speed by the roofline and the engine, divergence by the codes' error, and nothing else."""
    kl, speed = 40 * TRAITS[one.scheme].error, one.speed[1] * ENGINES[one.engine]
    fits = limits.size is None or one.size <= limits.size
    return Seen(one, fits and kl <= lost, kl <= lost, one.size, one.size + 1e8, 1 / speed, kl, kl, 5.0)


def found(names: tuple[str, ...], limits: Limits = Limits(), quality: float = 0.95) -> list[Seen]:  # noqa: B008
    """All that a search measures until it stops."""
    hunt = search.Search(ALL, TRAITS, names, limits, quality, 8192, 100_000)
    seen = [truth(candidate("f16", "quick"), limits, 1 - quality)]
    while batch := hunt.next(seen):
        seen += [truth(one, limits, 1 - quality) for one in batch]
    return seen


def test_objectives() -> None:
    assert search.objectives("size") == ("size",) and search.objectives("size, speed") == ("size", "speed")
    for text in ("", "price", "size,size", "size,speed,memory", "size;speed"):
        with pytest.raises(UsageError):
            search.objectives(text)


def test_hypervolume_of_a_staircase() -> None:
    """Three boxes by hand: 3 x 1, 2 x 1, 1 x 1; a beaten point and one behind the reference add nothing."""
    points = np.array([[1, 3], [2, 2], [3, 1], [3, 3], [5, 0]], float)
    assert search.hypervolume(points, np.array([4.0, 4.0])) == 6
    assert search.hypervolume(points[:, :1], np.array([4.0])) == 3
    assert search.hypervolume(points[:0], np.array([4.0, 4.0])) == 0


@pytest.mark.parametrize("axes", [1, 2])
def test_a_gain_is_the_difference_of_two_hypervolumes(axes: int) -> None:
    random, reference = np.random.default_rng(1), np.ones(axes)
    for count in (0, 1, 5):
        best, more = random.random((count, axes)) * 1.2, random.random((40, axes)) * 1.2
        before = search.hypervolume(best, reference)
        after = [search.hypervolume(np.vstack([best, one]), reference) for one in more]
        np.testing.assert_allclose(search.gains(more, best, reference), np.array(after) - before, atol=1e-12)


def test_the_front_and_the_choice() -> None:
    ends = [Seen(ALL[0], True, size=1, speed=100), Seen(ALL[1], True, size=100, speed=1)]
    knee, beaten = Seen(ALL[2], True, size=5, speed=5), Seen(ALL[3], True, size=6, speed=6)
    failed, blind = Seen(ALL[4], False, size=1, speed=1), Seen(ALL[5], True, size=1)
    names = ("size", "speed")
    seen = [*ends, knee, beaten, failed, blind]
    assert search.front([one for one in seen if one.passed], names) == [*ends, knee]
    assert search.choose(seen, names) == knee
    assert search.choose([*ends, beaten], ("speed",)) == ends[1]
    assert search.choose(ends, names) == ends[0] and search.choose(ends, ("speed", "size")) == ends[1]
    assert search.choose([failed], names) is None
    # Divergences that nobody can tell apart are equal: then the first one stands.
    alike = [Seen(ALL[0], True, quality=3e-5), Seen(ALL[1], True, quality=-1e-9)]
    assert search.front(alike, ("quality",)) == alike[:1]


@pytest.mark.parametrize("names", [*itertools.combinations(search.OBJECTIVES, 2), *((one,) for one in search.OBJECTIVES)])
@pytest.mark.parametrize("limits", [Limits(), Limits(size=400_000_000)], ids=["free", "small"])
def test_a_few_measurements_find_nearly_all(names: tuple[str, ...], limits: Limits) -> None:
    """Where the figures follow the laws that are predicted by, within a part of the candidates."""
    seen, every = found(names, limits), [truth(one, limits) for one in ALL]
    costs = [np.array([[one.cost(n) for n in names] for one in some if one.passed]).reshape(-1, len(names))
             for some in (seen, every)]  # fmt: skip
    reference = costs[1].max(axis=0) + 0.1
    whole = search.hypervolume(costs[1], reference)
    assert search.hypervolume(costs[0], reference) >= 0.97 * whole
    assert len(seen) <= 12 < len(ALL)


def test_nothing_to_search() -> None:
    assert search.Search([], {}, ("size",), Limits(), 0.95, 8192, 100_000).next([]) == []


def test_several_at_once_are_different_ones() -> None:
    hunt = search.Search(ALL, TRAITS, ("size", "speed"), Limits(), 0.95, 8192, 100_000)
    batch = hunt.next([truth(candidate("f16", "quick"))], slots=3)
    assert len({(one.scheme, one.engine) for one in batch}) == 3


def test_steps_are_tried_in_turn_while_quality_fails() -> None:
    """After 4 bits failed: mixed, then 8 bits, whatever a prediction says, for nothing has passed."""
    limits = Limits(size=600_000_000)
    hunt = search.Search(ALL, TRAITS, ("size",), limits, 0.999, 8192, 100_000)
    seen = [truth(candidate("f16", "quick"), limits, 1e-3), truth(candidate("q4", "quick"), limits, 1e-3)]
    (one,) = hunt.next(seen)
    assert search.step(one) == "mixed"
    seen.append(truth(one, limits, 1e-3))
    assert not seen[-1].good
    (one,) = hunt.next(seen)
    assert search.step(one) == "8 bits"
    told = [(name, best.good) for name, best in search.ladder([*seen, truth(one, limits, 1e-3)])]
    assert told == [("4 bits", False), ("mixed", False), ("8 bits", True)]


def test_the_search_ends_where_nothing_can_keep_the_quality() -> None:
    limits = Limits(size=600_000_000)
    seen = found(("size",), limits, 1.0)
    steps = [search.step(one.candidate) for one in seen]
    assert steps[:2] == ["16 bits", steps[1]] and steps == sorted(steps[:1]) + sorted(set(steps[1:]), key=steps.index)
    assert not any(one.passed for one in seen) and len(seen) <= 4


def test_what_cannot_be_small_enough_is_not_measured() -> None:
    assert len(found(("size",), Limits(size=1000))) == 1
