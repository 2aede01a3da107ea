"""What was computed of requests that have ended, for those that begin alike: for engines that keep nothing themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

State = TypeVar("State")


class Kept(Generic[State]):
    """Caches of keys and values, each with the tokens that it holds. One in use is lent, and comes back when it is over: of
    both together there are never more than `most`, unless more are in use."""

    def __init__(self, most: int) -> None:
        self._most, self._lent = most, 0
        self._rows: list[tuple[int | None, list[int], State]] = []
        """Adapter, tokens, cache; the last that came back stands last."""

    def take(self, adapter: int | None, ids: Sequence[int], fits: Callable[[State], bool]) -> tuple[State | None, int]:
        """One that holds at least half of these tokens, computed through the same adapter, and how many from the beginning:
        never all, for the last one's logits are wanted. Else None, and 0; `give` is owed in any case."""
        self._lent += 1
        best, most = -1, (len(ids) - 1) // 2
        for place, (through, tokens, state) in enumerate(self._rows):
            if through == adapter and (common := shared(tokens, ids)) > most and fits(state):
                best, most = place, common
        if best >= 0:
            return self._rows.pop(best)[2], min(most, len(ids) - 1)
        self._trim()
        return None, 0

    def give(self, adapter: int | None, tokens: list[int], state: State | None) -> None:
        """It is over; None where what the cache holds is not known."""
        self._lent -= 1
        if state is not None:
            self._rows.append((adapter, tokens, state))
        self._trim()

    def _trim(self) -> None:
        while self._rows and len(self._rows) + self._lent > self._most:
            del self._rows[0]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
