"""The one internal request: every wire format is read into it, and written from what comes back of it."""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from slmops.core.defaults import Defaults
from slmops.core.errors import PolicyRefused
from slmops.core.parameters import MOST_TOKENS
from slmops.engines import Sampling

GREEDY = Sampling()


GAPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
"""Seconds between two pieces of an answer, as they are counted: a CPU makes 1 to 500 tokens a second of a small model."""


@dataclass
class Trail:
    """What one HTTP request is known by, in logs, in the audit log and in traces."""

    id: str = ""
    """Its X-Request-Id."""
    parent: str = ""
    """The traceparent that it came with (W3C Trace Context), empty without one."""
    outcomes: list[Outcome] = field(default_factory=list)
    """Of what was asked of models on its way."""


Messages = Sequence[Mapping[str, Any]]
"""Of a conversation, or functions, as chat templates take them."""
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
    trail: Trail = field(default_factory=Trail, compare=False)

    def uses(self, model: str) -> bool:
        """Whether a model of this name may be used, whether there is one or not."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def check(self, model: str) -> None:
        """Raises PolicyRefused where it may not, in words that do not tell whether there is one."""
        if not self.uses(model):
            raise PolicyRefused(f"{self.name} may not use the model {model[:100]!r}", "ask for one of GET /v1/models")


@dataclass(frozen=True)
class Request:
    """Text to go on from: a conversation, or a prompt as it stands."""

    model: str
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | tuple[int, ...] | None = None
    """In place of messages: a text or its tokens, continued as they stand, without the chat template."""
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
    texts: tuple[str, ...] = ()
    """To be embedded (Desk.embed); nothing is continued."""
    think: bool | None = None
    """Whether the model thinks first; None: as its template has it."""
    said: frozenset[str] | None = None
    """Fields of `sampling`, and "stop", that the client says itself; of the others the model's own parameters hold where it
    has some (`own`). None: all are said."""

    @property
    def most(self) -> int:
        """Tokens that the answer may have, whatever its model says."""
        return self.sampling.max_tokens if self.said is None or "max_tokens" in self.said else MOST_TOKENS

    def own(self, defaults: Defaults) -> Request:
        """With the model's own parameters where the client says nothing."""
        if self.said is None or not defaults.parameters:
            return self
        stop = self.stop if "stop" in self.said else defaults.stop
        return replace(self, sampling=defaults.fill(self.sampling, self.said), stop=stop, said=None)


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
class Thought:
    """Text of what the model thinks before it answers."""

    text: str


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
    stop: str | None = None
    """The text of `Request.stop` that ended it."""
    prompt: Began | None = None
    """The prompt's tokens, where they were not known when it began."""


@dataclass(frozen=True)
class Embedded:
    """A vector of length 1 for each text."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


Event = Began | Piece | Thought | Call | Arguments | Ended


@dataclass(frozen=True)
class Served:
    """What answers to a name: which bytes, in which engine, through which adapter."""

    name: str
    """One for all ways to write it."""
    digest: str
    """sha256:..., empty for a folder that is not in the registry."""
    engine: str
    quant: str
    """The scheme of its weights; empty where it does not say."""
    release: str
    """stable or canary."""
    adapter: int | None = None
    """Which of the model's adapters it is computed through (Sampling.adapter); None: the model as it stands."""
    base: str = ""
    """Of an adapter, the model's own digest, its name where it has none; `digest` is the adapter's."""


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
    served: Served | None = None
    """What it was given to; None where nothing was found, or nothing took it."""
    fault: BaseException | None = None
    """What was raised in place of an end: for logs, not for strangers."""
    last: float | None = None
    """When the last text came."""
    gaps: list[int] = field(default_factory=lambda: [0] * (len(GAPS) + 1))
    """How often so much time passed between two pieces: at most GAPS[i], the last one more than all."""
    original: Request = field(init=False)
    """As it was asked, which watchers were told; `request` is what the model is asked, tools and all."""

    def __post_init__(self) -> None:
        self.original = self.request

    @property
    def prompt(self) -> Began:
        """What is known of the prompt by now: all of it, once it has ended."""
        return Began(self.prompt_tokens, self.cached_tokens)

    def piece(self, now: float) -> None:
        """Text came."""
        if self.last is not None:
            self.gaps[bisect.bisect_left(GAPS, now - self.last)] += 1
        else:
            self.first = now
        self.last = now
