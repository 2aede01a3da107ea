"""Resident memory over many requests: what it grows from the first to the last must stay within a bound.

requests                   how many are counted (40), after `warm_up` others (8)
growth_mb, growth_percent  the bound: 10^6 bytes, or a share of what is resident after the warm-up
new_tokens                 of each answer (8); prompts are of 16 to 64 tokens

Growth is statistics.trend (Theil and Sen) times the requests, so that a single step in the beginning is no leak.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmops.core import units
from slmops.measure import checks, statistics

KEYS, OPTIONAL = (), ("requests", "warm_up", "new_tokens", "growth_mb", "growth_percent")
LENGTHS = (16, 64, 32, 48)


def read(keys: dict[str, Any], folder: Path) -> Callable[[checks.Subject], checks.Finding]:
    requests, warm_up = checks.whole(keys, "requests", 40, 10), checks.whole(keys, "warm_up", 8, 0)
    new_tokens = checks.whole(keys, "new_tokens", 8)
    given = [name for name in ("growth_mb", "growth_percent") if name in keys]
    if len(given) != 1:
        raise ValueError("give a bound: growth_mb or growth_percent")
    allowed = checks.positive(keys[given[0]], given[0])

    def ask(subject: checks.Subject) -> checks.Finding:
        resident = []
        for number in range(warm_up + requests):
            length = min(LENGTHS[number % len(LENGTHS)], subject.context - 1)
            for _ in subject.generate(subject.ids(length), new_tokens, ends=False):
                pass
            if number >= warm_up:
                resident.append(subject.worker.memory()["resident"])
        bound = allowed * 1e6 if given == ["growth_mb"] else allowed / 100 * resident[0]
        growth = statistics.trend(resident).through(lambda each: each * (requests - 1))
        said = (
            f"{_signed(growth.value)} ({_signed(growth.low)} to {_signed(growth.high)}) over {requests} requests "
            f"from {units.size(resident[0])}, at most {units.size(bound)} is allowed"
        )
        details = {"resident": resident, "growth": growth.value, "low": growth.low, "high": growth.high}
        return checks.Finding(checks.at_most(growth, bound), said, details)

    return ask


def _signed(count: float) -> str:
    return ("-" if count < 0 else "+") + units.size(abs(count))
