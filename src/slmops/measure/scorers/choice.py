"""Multiple choice by log-likelihood: which of the `choices` does the model find likeliest as the continuation?

acc         the greatest sum of the choice's token log-probabilities is the right one's
acc_norm    the same of the sum divided by the choice's length in characters, so that long ones are not at a loss

Both as lm-evaluation-harness defines them (lm_eval/api/task.py, output_type multiple_choice). `expected` is the right
choice, or its number from 0. Choices stand as they follow the prompt: after "raw", a blank before a word is the choice's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slmops.measure import scorers

KEYS, OPTIONAL = ("choices", "expected"), ()
METRICS = ("acc", "acc_norm")


def continuations(keys: scorers.Keys) -> tuple[str, ...]:
    choices = scorers.texts(keys, "choices")
    if len(choices) < 2 or not all(choices) or len(set(choices)) != len(choices):
        raise ValueError("'choices' must be two or more different texts")
    return choices


def make(keys: scorers.Keys) -> Callable[[Sequence[float]], scorers.Marks]:
    choices, expected = continuations(keys), keys["expected"]
    if expected in choices:
        expected = choices.index(expected)
    if isinstance(expected, bool) or not isinstance(expected, int) or not 0 <= expected < len(choices):
        raise ValueError(f"'expected' must be one of the choices, or its number from 0 to {len(choices) - 1}")

    def score(sums: Sequence[float]) -> scorers.Marks:
        places = range(len(choices))
        plain = max(places, key=lambda place: sums[place])
        by_length = max(places, key=lambda place: sums[place] / len(choices[place]))
        return {"acc": float(plain == expected), "acc_norm": float(by_length == expected)}

    return score
