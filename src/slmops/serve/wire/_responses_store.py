"""Responses that may be gone on with, in memory and bounded: the oldest give way."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.core.errors import SourceNotFound

MOST = 1000
MOST_BYTES = 64 << 20
"""Of all together, each counted with the whole conversation before it."""


@dataclass(frozen=True)
class Stored:
    """A response, what it was asked, and the conversation to go on with."""

    owner: str
    response: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    messages: Sequence[Mapping[str, Any]]
    size: int


class Store:
    """By the response's id. Each caller sees its own alone."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def get(self, identifier: str, owner: str) -> Stored:
        """Raises SourceNotFound."""
        found = self._held.get(identifier)
        if found is None or found.owner != owner:
            raise SourceNotFound(f"there is no response {identifier[:100]!r}", "responses are kept in memory for a while")
        self._held.move_to_end(identifier)
        return found

    def put(
        self,
        owner: str,
        response: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        messages: Sequence[Mapping[str, Any]],
    ) -> None:
        size = len(json.dumps([response, items, messages]))
        self._held[response["id"]] = Stored(owner, response, items, messages, size)
        self._bytes += size
        while len(self._held) > MOST or self._bytes > MOST_BYTES:
            self._bytes -= self._held.popitem(last=False)[1].size

    def drop(self, identifier: str, owner: str) -> None:
        """Raises SourceNotFound."""
        self._bytes -= self.get(identifier, owner).size
        del self._held[identifier]
