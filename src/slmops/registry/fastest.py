"""Which engine computes an artifact fastest on this machine: by what `slmops measure --concurrency --attach` filed here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

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


def fastest(registry: Registry, digest: str, at_once: int, engines: Collection[str]) -> Fastest | None:
    """The one of these engines with the greatest throughput, at that number of requests in flight, of those at which two or
    more were measured on this machine, that is nearest to `at_once`; of one engine the last measurement counts.

    None where there is no such number, or the two best lie within each other's intervals.
    """
    here, taken = described.machine({"machine": receipt.machine()}), dict[int, dict[str, tuple[float, float, float]]]()
    for one, kind in registry.catalog.attachments(digest):
        if kind != MEASURED or registry.catalog.origin(one) != HERE:
            continue
        document = registry.content(one)
        measured = _dict(document.get("measured"))
        if described.machine(document) == here and (engine := str(measured.get("engine"))) in engines:
            for level, load in _dict(measured.get("concurrency")).items():
                held = _dict(_dict(load).get("throughput"))
                figures = [held.get(key) for key in ("value", "low", "high")]
                if level.isdecimal() and all(isinstance(each, int | float) for each in figures):
                    taken.setdefault(int(level), {})[engine] = (figures[0], figures[1], figures[2])
    levels = [level for level, found in taken.items() if level > 0 and len(found) > 1]
    if not levels:
        return None
    level = min(levels, key=lambda one: (abs(math.log(one / at_once)), one))
    (best, first), (_, second), *_ = sorted(taken[level].items(), key=lambda item: -item[1][0])
    if not first[1] > second[2]:
        return None
    figures = ", ".join(f"{name} {value[0]:,.4g}" for name, value in sorted(taken[level].items()))
    return Fastest(best, f"measured here at {level} in flight, tokens/s: {figures}")


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
