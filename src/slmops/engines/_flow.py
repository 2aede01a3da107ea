"""What flows have in common (engines.Flow): text out of tokens, and turns for engines that compute one sequence alone."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed, SlmopsError
from slmops.core.tensor import Floats
from slmops.engines import Likely, News, Sampling

HELD_BACK = 8
"""Tokens re-decoded with each new one, so that characters that span tokens come out whole."""


class Text:
    """Pieces of text that become certain as tokens come."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._made: list[int] = []
        """The tokens that are decoded with the next one; of these, `_sent` were told."""
        self._sent, self._known = 0, ""

    def ahead(self, token: int) -> tuple[int, ...]:
        """What `feed` will decode first."""
        return (*self._made, token)

    def feed(self, token: int) -> str:
        """The text that became certain with it."""
        self._made.append(token)
        return self._delta(last=False)

    def rest(self) -> str:
        """What was held back, at the end."""
        return self._delta(last=True) if self._sent < len(self._made) else ""

    def _delta(self, last: bool) -> str:
        whole = self._decode(self._made)
        if whole.endswith("\ufffd") and not last and len(self._made) - self._sent < HELD_BACK:
            return ""
        piece = whole[len(self._known) :]
        if len(self._made) >= 2 * HELD_BACK:
            self._made = self._made[-HELD_BACK:]
            whole = self._decode(self._made)
        self._sent, self._known = len(self._made), whole
        return piece


class Weighed(int):
    """A token of generate() where log-probabilities are asked for: the number itself, and how likely it was."""

    logprob: float
    top: tuple[tuple[int, float], ...]

    @staticmethod
    def of(token: int, logs: Floats, most: int) -> Weighed:
        """logs: natural log-probabilities [vocab]."""
        found = Weighed(token)
        best = np.argpartition(logs, -most)[-most:] if most else np.empty(0, np.int64)
        best = best[np.argsort(-logs[best], kind="stable")]
        found.logprob = float(logs[token])
        found.top = tuple((int(one), float(logs[one])) for one in best)
        return found

    def told(self, decode: Callable[[Sequence[int]], str]) -> Likely:
        return Likely(decode([self]), self.logprob, tuple((decode([one]), logprob) for one, logprob in self.top))


class _Turn:
    def __init__(self, which: int, tokens: Iterator[int], decode: Callable[[Sequence[int]], str], most: int) -> None:
        self.which, self.tokens, self.text, self.left = which, tokens, Text(decode), most
        self.begun = False

    def close(self) -> None:
        if (close := getattr(self.tokens, "close", None)) is not None:
            with contextlib.suppress(Exception):  # it is not wanted any more
                close()


class Turns:
    """A token of each request in turn, by a Session's own generate(): no faster together than one after the other, but
    nobody waits for the end of another's answer. Without `several`, one after the other."""

    def __init__(self, session: Any, several: bool) -> None:
        self._session, self._several = session, several
        self._turns: deque[_Turn] = deque()

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        tokens = self._session.generate(ids, sampling)
        self._turns.append(_Turn(which, tokens, self._session.decode, sampling.max_tokens))

    def cancel(self, which: int) -> None:
        for turn in [one for one in self._turns if one.which == which]:
            self._turns.remove(turn)
            turn.close()

    def step(self) -> list[News]:
        if not self._turns:
            return []
        turn = self._turns[0]
        try:
            token = next(turn.tokens, None)
        except SlmopsError as error:
            return self._over(turn, News(turn.which, error=error))
        except Exception as error:  # whatever an engine's binding raises is this request's fault alone
            return self._over(turn, News(turn.which, error=EngineFailed(f"{type(error).__name__}: {error}")))
        # Told with the first token: until then the engine has only been asked.
        cached = None if turn.begun else self._session.reused if self._several else 0
        turn.begun = True
        if token is None:
            return self._over(turn, News(turn.which, turn.text.rest(), 0, cached, end="stop"))
        turn.left -= 1
        text = turn.text.feed(token)
        weighed = (token.told(self._session.decode),) if isinstance(token, Weighed) else ()
        if turn.left <= 0:
            return self._over(turn, News(turn.which, text + turn.text.rest(), 1, cached, weighed, "length"))
        if self._several:
            self._turns.rotate(-1)
        return [News(turn.which, text, 1, cached, weighed)]

    def _over(self, turn: _Turn, news: News) -> list[News]:
        self._turns.remove(turn)
        turn.close()
        return [news]

    def wake(self) -> None:
        """A step never waits for long."""

    def close(self) -> None:
        for turn in list(self._turns):
            self.cancel(turn.which)
