"""Stop strings in a stream: text is held back for as long as it may be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Takes pieces of text and gives back what is certain."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""
        self.met: str | None = None
        """The one that came: nothing after it is given."""

    def feed(self, piece: str) -> str:
        """What is certain now, the piece included."""
        if self.met is not None:
            return ""
        text = self._held + piece
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            first, self.met = min(places)
            self._held = ""
            return text[:first]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Letters at the end of the text that are the beginning of the stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
