"""The last number of the answer is the expected one: |found - expected| <= max(tolerance, relative * |expected|).

The last one, because models reason before they answer (GSM8K's convention); commas between thousands are read over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from slmops.measure import scorers

KEYS, OPTIONAL = ("expected",), ("tolerance", "relative")
METRICS = ("numeric",)
NUMBER = re.compile(r"(?:(?<!\d)[-+])?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?")


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    wanted = scorers.number(keys, "expected")
    tolerance, relative = scorers.number(keys, "tolerance", 0.0), scorers.number(keys, "relative", 0.0)
    if tolerance < 0 or relative < 0:
        raise ValueError("'tolerance' and 'relative' are at least 0")

    def score(answer: str) -> scorers.Marks:
        found = NUMBER.findall(answer)
        value = float(found[-1].replace(",", "")) if found else math.nan
        return {"numeric": float(abs(value - wanted) <= max(tolerance, relative * abs(wanted)))}

    return score
