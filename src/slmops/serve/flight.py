"""A request that an engine has: what the engine tells of it, as events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmops.core.stops import Stops
from slmops.serve.answer import Answer
from slmops.serve.request import Began, Ended, Event, Logprob, Piece


class Flight:
    """One of them. `tokens`: how many the engine has made."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.tokens, self._stops = answer, 0, Stops(answer.request.stop)

    def read(self, news: Mapping[str, Any]) -> list[Event]:
        """What an engine's line says but its errors (engines._host). Behind Ended there is nothing more to read, even where
        the engine would go on: a stop string was met."""
        found: list[Event] = []
        if "cached" in news:
            found.append(Began(news["prompt"], news["cached"]))
        count = news.get("tokens", 0)
        self.tokens += count
        text = self._stops.feed(news["text"]) if "text" in news else ""
        likely = news.get("logprobs")
        if text or likely:
            told = tuple(Logprob(word, value, tuple(map(tuple, top))) for word, value, top in likely) if likely else ()
            found.append(Piece(text, told, count))
        if self._stops.met is not None or "end" in news:
            if rest := self._stops.rest():
                found.append(Piece(rest, (), 0))
            cut = news.get("end") == "length" and self._stops.met is None
            found.append(Ended("length" if cut else "stop", self.tokens, self._stops.met))
        return found
