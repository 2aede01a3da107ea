"""The answer has the expected text (or one of several) in it; `forbidden` texts must not be there."""

from __future__ import annotations

from collections.abc import Callable

from slmops.measure import scorers

KEYS, OPTIONAL = ("expected",), ("forbidden",)
METRICS = ("contains",)


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    wanted = scorers.texts(keys)
    barred = scorers.texts(keys, "forbidden") if "forbidden" in keys else ()

    def score(answer: str) -> scorers.Marks:
        return {"contains": float(any(one in answer for one in wanted) and not any(one in answer for one in barred))}

    return score
