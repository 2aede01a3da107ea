"""The answer matches a pattern of Python's `re` somewhere (give ^ and $ for the whole of it)."""

from __future__ import annotations

import re
from collections.abc import Callable

from slmops.measure import scorers
from slmops.measure.scorers import _bounded

KEYS, OPTIONAL = ("pattern",), ()
METRICS = ("regex",)
SEARCH = "import json, re, sys; p, t = json.load(sys.stdin); sys.exit(0 if re.search(p, t) else 3)"


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    pattern = keys["pattern"]
    if not isinstance(pattern, str):
        raise ValueError("'pattern' must be a text")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"'pattern' is no regular expression: {error}") from None
    return lambda answer: {"regex": float(_bounded.call(SEARCH, pattern, answer, what=f"the pattern {pattern!r}"))}
