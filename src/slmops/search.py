"""Which candidate to measure next, when to stop, and which to choose: decisions alone, no engine, no weight.

The answer to one objective is the best that passes; to two, the front of those that no other beats in both. Its worth is the
hypervolume that it dominates, on logarithmic axes, so that halving the size is worth what doubling the speed is. Next
comes the candidate with the greatest expected gain of hypervolume for each second that it will take (expected hypervolume
improvement: Emmerich, Giannakoglou and Naujoks 2006, here over draws from forecast.py), and the search ends when
measuring all the rest is expected to add less than MISSING to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slmops.core.errors import UsageError
from slmops.core.tensor import Array
from slmops.forecast import Effect, Forecast, Traits
from slmops.plan.decide import Candidate, Limits

OBJECTIVES = ("size", "memory", "speed", "quality")
ALIKE = 1e-4
"""KL divergence in nats a token below which nobody tells two models apart: such differences count for nothing."""
MISSING = 0.015
"""Share of the hypervolume that may be left unfound."""
FLOORS = {"quality": math.log(ALIKE)}
"""Of the logarithms of figures."""
DRAWS = 256
MARGIN = 0.1
"""How far behind the worst candidate the hypervolume is measured from, as a share of the range."""
STEPS = (("4 bits", 5.0), ("mixed", 7.5), ("8 bits", 12.0), ("16 bits", math.inf))
"""What is tried in turn while quality fails: a name, and the bits of a weight that it stays below."""


def objectives(text: str) -> tuple[str, ...]:
    """One objective, or two of them, such as size,speed. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(","))
    odd = [name for name in names if name not in OBJECTIVES]
    if odd or len(names) > 2 or len(set(names)) != len(names):
        raise UsageError(f"{text!r} is no objective", f"one or two of {', '.join(OBJECTIVES)}, such as size,speed")
    return names


@dataclass(frozen=True)
class Seen:
    """What a measurement told of a candidate. Figures are to be small: bytes, seconds a token, nats; None: not taken."""

    candidate: Candidate
    passed: bool
    """Whether it kept every gate."""
    good: bool = True
    """Whether it kept the gate of quality, whatever else it lacks."""
    size: float | None = None
    memory: float | None = None
    speed: float | None = None
    """Seconds a token."""
    quality: float | None = None
    """KL divergence."""
    lost: float | None = None
    """Share of the quality that may be lost: 1 - the lower end of what is retained."""
    seconds: float | None = None
    """What making, proving and measuring it took; None where it was remembered."""

    def cost(self, objective: str) -> float:
        return cost(objective, getattr(self, objective))


def cost(objective: str, value: float | None) -> float:
    """The logarithm of a figure that is to be small; infinite where it was not taken."""
    if value is None or not math.isfinite(value):
        return math.inf
    return max(math.log(max(value, 1e-12)), FLOORS.get(objective, -math.inf))


def step(candidate: Candidate) -> str:
    """Which of STEPS a candidate stands on."""
    return next(name for name, below in STEPS if candidate.bits < below)


def front(seen: Sequence[Seen], names: Sequence[str]) -> list[Seen]:
    """Those that no other beats or equals in all of the objectives, being better in one; of equals the first."""
    return [seen[place] for place in unbeaten([tuple(one.cost(name) for name in names) for one in seen])]


def unbeaten(costs: Sequence[tuple[float, ...]]) -> list[int]:
    """The same of costs alone: places of those that are on the front, in their order."""
    kept: list[int] = []
    for number, own in enumerate(costs):
        beaten = (all(a <= b for a, b in zip(other, own, strict=True)) and (other != own or place < number)
                  for place, other in enumerate(costs) if place != number)  # fmt: skip
        if all(map(math.isfinite, own)) and not any(beaten):
            kept.append(number)
    return kept


def choose(seen: Sequence[Seen], names: Sequence[str]) -> Seen | None:
    """The best of those that passed; of a front the one nearest to the ideal point, which has the best of both.

    Distances are taken on logarithmic axes from the front's best to its worst (compromise programming: Zeleny 1973), so
    that the ends of the front are 1 away and a knee is nearer. Of equals the better in the first objective.
    """
    best = front([one for one in seen if one.passed], names)
    if not best:
        return None
    costs = np.array([[one.cost(name) for name in names] for one in best])
    low, high = costs.min(axis=0), costs.max(axis=0)
    away = np.linalg.norm((costs - low) / np.where(high > low, high - low, 1.0), axis=1).round(9)
    return best[min(range(len(best)), key=lambda place: (away[place], costs[place, 0]))]


def hypervolume(points: Array, reference: Array) -> float:
    """What points [n, 1 or 2] dominate below the reference point, all coordinates to be small."""
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    total, ceiling = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if y < ceiling:
            total, ceiling = total + (float(reference[0]) - x) * (ceiling - y), float(y)
    return total


def gains(points: Array, best: Array, reference: Array) -> Array:
    """What each of points [..., 1 or 2] would add to the hypervolume of the front `best` [n, 1 or 2]."""
    if points.shape[-1] == 1:
        least = min(float(reference[0]), float(best.min(initial=math.inf)))
        return np.asarray(np.maximum(0.0, least - points[..., 0]))
    order = best[np.lexsort((best[:, 1], best[:, 0]))] if len(best) else best.reshape(0, 2)
    lefts = np.concatenate([[-np.inf], np.minimum(order[:, 0], reference[0])])
    rights = np.concatenate([lefts[1:], [reference[0]]])
    ceilings = np.minimum.accumulate(np.concatenate([[reference[1]], order[:, 1]]))
    total: Array = np.zeros(points.shape[:-1])
    for left, right, ceiling in zip(lefts, rights, ceilings, strict=True):
        width = np.maximum(0.0, right - np.maximum(points[..., 0], left))
        total = total + width * np.maximum(0.0, ceiling - points[..., 1])
    return total


class Search:
    """Over candidates that are worth measuring, for one or two objectives within limits."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        traits: Mapping[str, Traits],
        names: Sequence[str],
        limits: Limits,
        quality: float,
        positions: int,
        parts: int,
    ) -> None:
        """traits: of every candidate's scheme. quality: share to be retained. positions: tokens that it is measured on.
        parts: bytes, more or less, of what a format adds to the weights (tokenizer, receipt)."""
        self._all, self._names, self._limits = list(candidates), tuple(names), limits
        self._lost, self._positions = 1 - quality, positions
        self._place = {one.key: number for number, one in enumerate(self._all)}
        self._forecasts = _forecasts(self._all, traits, parts) if self._all else {}
        random = np.random.default_rng(0)
        self._normal = {key: random.standard_normal((DRAWS, len(self._all))) for key in (*self._forecasts, "slack")}
        self.missing = 1.0
        """Share of the hypervolume that is expected to be unfound."""

    def next(self, seen: Sequence[Seen], slots: int = 1) -> list[Candidate]:
        """The candidates to measure now, at most `slots`, best first; none when nothing could change the answer."""
        picked: list[Candidate] = []
        known = list(seen)
        for _ in range(slots):
            one = self._best(known, first=not picked)
            if one is None:
                break
            picked.append(one[0])
            known.append(one[1])  # believed until it is measured, so that the next one tells something else
        return picked

    def _best(self, seen: Sequence[Seen], first: bool) -> tuple[Candidate, Seen] | None:
        measured = {one.candidate.key for one in seen}
        left = [place for place, one in enumerate(self._all) if one.key not in measured]
        if not left:
            self.missing = 0.0
            return None
        drawn = self._draw(seen)
        costs = np.stack([np.maximum(drawn[name], FLOORS.get(name, -np.inf)) for name in self._names], axis=-1)
        within = self._within(drawn)
        fits = within & (drawn["lost"] <= self._lost)
        best = np.array([[one.cost(name) for name in self._names] for one in seen if one.passed])
        best = best.reshape(-1, len(self._names))
        reference = self._reference(costs, fits, best, left)
        above = self._above(seen, [place for place in left if within[:, place].any()])
        if first:
            self.missing = self._regret(costs, fits, best, reference, left)
        enough = self.missing < MISSING
        if not len(best) and above != [] and (above or enough):
            fits = within  # nothing has passed: what is thought to fail for quality is tried before giving up
        elif enough and first:
            return None
        gained = np.where(fits, gains(costs, best, reference), 0.0).mean(axis=0)
        worth = gained / np.exp(drawn["seconds"]).mean(axis=0)
        # With something that passed, a step that surely fails is passed over; without, each is tried.
        place = max([at for at in above or () if worth[at] > 0] or left, key=lambda at: float(worth[at]))
        if worth[place] <= 0:
            return None
        size, memory, speed, kl = (float(np.exp(np.median(drawn[name][:, place]))) for name in OBJECTIVES)
        passes = bool(fits[:, place].mean() > 0.5)
        return self._all[place], Seen(self._all[place], passes, passes, size, memory, speed, kl)

    def _above(self, seen: Sequence[Seen], left: Sequence[int]) -> list[int] | None:
        """While quality has failed on every step tried and nothing quantized has passed: what stands on the next step that
        there is, or nothing on the last. None where any may be tried."""
        names = [name for name, _ in STEPS]
        tried = [one for one in seen if step(one.candidate) != names[-1] and one.quality is not None]
        if not tried or any(one.good for one in tried):
            return None
        highest = max(names.index(step(one.candidate)) for one in tried)
        for name in names[highest + 1 :]:
            if found := [place for place in left if step(self._all[place]) == name]:
                return found
        return []

    def _draw(self, seen: Sequence[Seen]) -> dict[str, Array]:
        """Draws [DRAWS, candidates] of the logarithm of every figure, and of `lost`."""
        drawn = {}
        for key, forecast in self._forecasts.items():
            told = [(self._place[one.candidate.key], value) for one in seen if (value := getattr(one, key)) is not None]
            # A divergence that nobody can tell from none says nothing of other schemes' either.
            told = [(at, value) for at, value in told if math.isfinite(value) and (key != "quality" or value >= ALIKE)]
            drawn[key] = forecast.draw([at for at, _ in told], [math.log(max(value, 1e-9)) for _, value in told],
                                       self._normal[key])  # fmt: skip
        # Tokens' losses differ by what has a variance of about twice the divergence, if the divergence is small.
        kl = np.exp(drawn["quality"])
        slack = self._normal["slack"]
        drawn["lost"] = (1 - np.exp(-(kl + 2 * np.sqrt(2 * kl / self._positions)))) * np.exp(0.3 * slack)
        measured = {one.candidate.key for one in seen}
        for one in seen:  # the same codes keep elsewhere what they keep here
            for place, other in enumerate(self._all):
                own = other.key == one.candidate.key
                if other.codes == one.candidate.codes and (own or other.key not in measured):
                    about = 1.0 if own else np.exp(0.05 * slack[:, place])
                    if one.lost is not None:
                        drawn["lost"][:, place] = one.lost * about
                    if one.quality is not None and one.quality < ALIKE:
                        drawn["quality"][:, place] = FLOORS["quality"]
        return drawn

    def _within(self, drawn: Mapping[str, Array]) -> Array:
        """[draws, candidates]: whether the limits of size, memory and speed are kept."""
        limits = self._limits
        fits: Array = np.ones_like(drawn["size"], bool)
        if limits.size is not None:
            fits = fits & (drawn["size"] <= math.log(limits.size))
        if limits.memory is not None:
            fits = fits & (drawn["memory"] <= math.log(limits.memory))
        if limits.speed is not None:
            fits = fits & (drawn["speed"] <= -math.log(limits.speed))
        return fits

    def _reference(self, costs: Array, fits: Array, best: Array, left: Sequence[int]) -> Array:
        """Behind the worst that is likely to pass, or has."""
        likely = [place for place in left if fits[:, place].mean() > 0.2] or list(left)
        all_of = np.concatenate([best, costs[:, likely].mean(axis=0)])
        low, high = all_of.min(axis=0), all_of.max(axis=0)
        return np.asarray(high + MARGIN * np.maximum(high - low, 0.1))

    def _regret(self, costs: Array, fits: Array, best: Array, reference: Array, left: Sequence[int]) -> float:
        """Of what measuring everything is expected to find, the share that is not found yet."""
        now = hypervolume(best, reference)
        whole = []
        for draw in range(0, DRAWS, 4):
            places = [place for place in left if fits[draw, place]]
            whole.append(hypervolume(np.concatenate([best, costs[draw, places]]), reference))
        expected = float(np.mean(whole))
        return (expected - now) / expected if expected > 0 else 0.0


def _forecasts(all_of: Sequence[Candidate], traits: Mapping[str, Traits], parts: int) -> dict[str, Forecast]:
    """What is known of each figure before anything is measured, and how measurements tell of each other.

    Spreads are of logarithms. They were set by what bench/search.py found and are meant for any model: wide for what all
    share, narrow for what sets two schemes of one engine apart.
    """
    one_for_all = [0] * len(all_of)
    engines, schemes = [one.engine for one in all_of], [one.codes for one in all_of]
    caches = [one.kv for one in all_of]
    forms, kinds = [one.format for one in all_of], [traits[one.scheme].kind for one in all_of]
    sizes = np.array([float(one.size) for one in all_of])
    bits = np.log(np.maximum(sizes, 1)) - np.log(np.maximum(sizes, 1)).mean()
    memory = [math.log(one.memory.total) if one.memory else 0.0 for one in all_of]
    return {
        "size": Forecast(np.log(sizes + parts), [Effect(1.0, forms, parts / sizes)], 0.002),
        "memory": Forecast(
            memory,
            [
                Effect(0.15, one_for_all),
                Effect(0.3, engines),
                Effect(0.02, [*zip(engines, caches, strict=True)]),
                Effect(0.01, schemes),
            ],
            0.01,
        ),
        "speed": Forecast(
            [-math.log(max(one.speed[1], 1e-9)) for one in all_of],
            [
                Effect(1.0, one_for_all),
                Effect(0.5, engines),
                Effect(0.7, one_for_all, bits),
                Effect(0.2, engines, bits),
                Effect(0.08, [*zip(engines, kinds, strict=True)]),
                Effect(0.2, [*zip(engines, caches, strict=True)]),
                Effect(0.02, [*zip(engines, schemes, strict=True)]),
            ],
            0.1,
        ),
        "quality": Forecast(
            [math.log(traits[one.scheme].error) for one in all_of],
            [
                Effect(2.0, one_for_all),
                Effect(0.3, kinds),
                Effect(0.3, schemes),
                Effect(0.1, [*zip(engines, caches, strict=True)]),
            ],
            0.05,
        ),
        "seconds": Forecast([math.log(10.0)] * len(all_of), [Effect(1.0, one_for_all), Effect(0.7, engines)], 0.3),
    }


def ladder(seen: Sequence[Seen]) -> Iterator[tuple[str, Seen]]:
    """Each step on which quality failed, up to the first on which it passed, with the candidate that kept most of it."""
    for name, _ in STEPS:
        tried = [one for one in seen if step(one.candidate) == name and one.lost is not None]
        if tried:
            best = min(tried, key=lambda one: (not one.good, one.lost))
            yield name, best
            if best.good:
                return
