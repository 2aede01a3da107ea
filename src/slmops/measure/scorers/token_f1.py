"""F1 of the words that an answer shares with a reference, and exact match, as SQuAD's evaluate-v1.1.py defines them.

Both texts are lower-cased, punctuation and the articles a, an, the are taken out; the best of the references counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from slmops.measure import scorers
from slmops.measure.scorers import _overlap

KEYS, OPTIONAL = ("expected",), ()
METRICS = ("token_f1", "exact_normalized")


def make(keys: scorers.Keys) -> Callable[[str], scorers.Marks]:
    references = [_words(text) for text in scorers.texts(keys)]

    def score(answer: str) -> scorers.Marks:
        found = _words(answer)
        best = max(_overlap.f1((Counter(found) & Counter(one)).total(), len(found), len(one)) for one in references)
        return {"token_f1": best, "exact_normalized": float(found in references)}

    return score


def _words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()
