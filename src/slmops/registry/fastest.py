"""Which engine computes an artifact fastest on this machine: by what `slmops measure --concurrency --attach` filed here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from slmops.core import receipt
from slmops.registry import described
from slmops.registry.approval import MEASURED
from slmops.registry.policy import HERE
from slmops.registry.registry import Registry


@dataclass(frozen=True)
class Fastest:
    """An engine, and the figures that speak for it."""

    engine: str
    why: str


class Rate(NamedTuple):
    """Tokens a second, with the 95 % interval."""

    value: float
    low: float
    high: float


def fastest(registry: Registry, digest: str, at_once: int, engines: Collection[str]) -> Fastest | None:
    """The one of these engines with the greatest throughput, at that number of requests in flight, of those at which two or
    more were measured on this machine, that is nearest to `at_once`; of one engine the last measurement counts.

    None where there is no such number, or the two best lie within each other's intervals.
    """
    here, taken = described.machine({"machine": receipt.machine()}), dict[int, dict[str, Rate]]()
    for one, kind in registry.catalog.attachments(digest):
        if kind != MEASURED or registry.catalog.origin(one) != HERE:
            continue
        document = registry.content(one)
        measured = _dict(document.get("measured"))
        engine = str(measured.get("engine"))
        if described.machine(document) != here or engine not in engines:
            continue
        for text, load in _dict(measured.get("concurrency")).items():
            rate = _rate(_dict(_dict(load).get("throughput")))
            if rate is not None and text.isdecimal():
                taken.setdefault(int(text), {})[engine] = rate
    levels = [level for level, found in taken.items() if level > 0 and len(found) > 1]
    if not levels:
        return None
    level = min(levels, key=lambda each: (abs(math.log(each / at_once)), each))
    (best, first), (_, second), *_ = sorted(taken[level].items(), key=lambda item: -item[1].value)
    if not first.low > second.high:
        return None
    figures = ", ".join(f"{name} {rate.value:,.4g}" for name, rate in sorted(taken[level].items()))
    return Fastest(best, f"measured here at {level} in flight, tokens/s: {figures}")


def _rate(held: Mapping[str, Any]) -> Rate | None:
    figures = [each for key in ("value", "low", "high") if isinstance(each := held.get(key), int | float)]
    return Rate(*map(float, figures)) if len(figures) == 3 else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
