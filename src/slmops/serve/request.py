"""The one internal request: every wire format is read into it, and written from what comes back of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slmops.engines import Sampling

GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """Text to go on from: a conversation, or a prompt as it stands."""

    model: str
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    """In place of messages: continued as it stands, without the chat template."""
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""


@dataclass(frozen=True)
class Began:
    """The prompt is read, and the model is at work."""

    prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """Text that is certain: none of it will be taken back by a stop string."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The answer is whole."""

    reason: Literal["stop", "length"]
    tokens: int
    """That were generated."""


Event = Began | Piece | Ended
