"""F1 of what an answer and a reference share."""

from __future__ import annotations


def f1(shared: int, found: int, wanted: int) -> float:
    """The harmonic mean of precision and recall."""
    return 2 * shared / (found + wanted) if shared else 0.0
