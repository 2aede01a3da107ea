"""The answer is the expected text (or one of several), blanks around it aside."""

from __future__ import annotations

from collections.abc import Callable

from slmops.measure import scorers

KEYS, OPTIONAL = ("expected",), ()
METRICS = ("exact",)


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    wanted = {text.strip() for text in scorers.texts(keys)}
    return lambda answer: {"exact": float(answer.strip() in wanted)}
