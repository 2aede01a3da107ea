"""The one internal request: every wire format is read into it, and written from what comes back of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from slmops.engines import Sampling

GREEDY = Sampling()


Role = Literal["admin", "operator", "user", "metrics"]


@dataclass(frozen=True)
class Limits:
    """How much one caller may ask for; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together, as of the day."""
    tokens_per_day: int | None = None
    concurrent: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Caller:
    """Who asks, as access.py found out."""

    name: str = "anyone"
    """Of the key, never the key."""
    role: Role = "user"
    models: tuple[str, ...] = ("*",)
    """Patterns (fnmatch) of the names of models that may be used."""
    limits: Limits = UNLIMITED

    def uses(self, model: str) -> bool:
        """Whether a model of this name may be used, whether there is one or not."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


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
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, as chat templates take them: {"type": "function", "function": {...}}."""
    texts: tuple[str, ...] = ()
    """To be embedded (Desk.embed); nothing is continued."""
    adapter: str | None = None
    """A LoRA adapter of the model, by its name."""


@dataclass(frozen=True)
class Began:
    """The prompt is read, and the model is at work."""

    prompt_tokens: int
    cached_tokens: int = 0
    """Of these, what the engine had from an earlier request."""


@dataclass(frozen=True)
class Logprob:
    """One token with its log-probability, and those that were likeliest in its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that is certain: none of it will be taken back by a stop string."""

    text: str
    logprobs: tuple[Logprob, ...] = ()
    tokens: int = 1
    """That it is of: pieces that nobody has taken yet become one."""


@dataclass(frozen=True)
class Ended:
    """The answer is whole."""

    reason: Literal["stop", "length"]
    tokens: int
    """That were generated."""


@dataclass(frozen=True)
class Embedded:
    """A vector of length 1 for each text."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


Event = Began | Piece | Ended


@dataclass
class Outcome:
    """What came of a request: written as its events pass, told to every watcher once it has ended."""

    request: Request
    caller: Caller
    asked: float = field(default_factory=time.monotonic)
    began: float | None = None
    """When the engine had the prompt in work; times are of time.monotonic, None for what never came."""
    first: float | None = None
    """When the first text came."""
    ended: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    """Generated so far, by the engine's own count once it has ended, by pieces before."""
    reason: str = ""
    """stop, length, cancelled, or the kind of the error: "EngineCrashed"."""
