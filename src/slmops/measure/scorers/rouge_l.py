"""ROUGE-L: F1 of the longest common subsequence of words (Lin 2004, sentence level, beta 1), the best of the references.

Words as google-research's rouge_score makes them without its stemmer: runs of a-z and 0-9 of the lower-cased text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from slmops.measure import scorers
from slmops.measure.scorers import _overlap

KEYS, OPTIONAL = ("expected",), ()
METRICS = ("rouge_l",)


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    references = [_words(text) for text in scorers.texts(keys)]

    def score(answer: str) -> scorers.Marks:
        found = _words(answer)
        return {"rouge_l": max(_overlap.f1(_common(found, one), len(found), len(one)) for one in references)}

    return score


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = 0
        for place, other in enumerate(b, 1):
            before, row[place] = row[place], before + 1 if one == other else max(row[place], row[place - 1])
    return row[-1]
