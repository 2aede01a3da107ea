"""The one internal request: every wire format is read into it, and written from what comes back of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slmops.engines import Sampling

GREEDY = Sampling()


@dataclass(frozen=True)
class Caller:
    """Who asks, as access.py found out."""

    name: str = "anyone"
    """Of the key, never the key."""
    role: Literal["admin", "operator", "user", "metrics"] = "user"


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
    tool_choice: Literal["auto", "required", "none"] = "auto"
    """Whether it must call one. Where it must call a certain one, that is the only one in `tools`."""
    parallel_calls: bool = True
    """Whether one answer may hold several calls."""
    opening: str = ""
    """Put behind the prompt: how the answer begins. Not given back."""
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


@dataclass(frozen=True)
class Call:
    """The model calls a function; its arguments follow."""

    index: int
    """Among the calls of this answer, from 0."""
    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the JSON text of the arguments of the latest call."""

    index: int
    text: str


@dataclass(frozen=True)
class Ended:
    """The answer is whole."""

    reason: Literal["stop", "length", "tool_calls"]
    tokens: int
    """That were generated."""


Event = Began | Piece | Call | Arguments | Ended


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
