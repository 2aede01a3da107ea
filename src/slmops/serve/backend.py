"""What the server needs of a model, wherever it is computed: by a worker of ours (model.py), or by another server
(upstream/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from slmops.core.defaults import Defaults
from slmops.core.errors import SlmopsError
from slmops.run import Artifact
from slmops.serve.answer import Answer, Reading
from slmops.serve.request import Embedded, Request, Served


class Gone(Exception):
    """The model was unloaded between being found and being asked: look it up again."""


class Backend(Protocol):
    """One model, under whatever names. `take`, `count` and `embed` are called on the server's loop."""

    served: dict[str, Served]
    """The names that lead to it, and what it is under each."""

    @property
    def engine(self) -> str: ...
    @property
    def format(self) -> str:
        """Of its files, empty where there are none here."""
        ...

    @property
    def artifact(self) -> Artifact | None:
        """Its files; None where they are another server's."""
        ...

    @property
    def defaults(self) -> Defaults:
        """What it says by itself where a request says nothing."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its answer, at most; None where that is not known."""
        ...

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def closing(self) -> bool: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def failing(self) -> bool: ...
    @property
    def fault(self) -> SlmopsError | None: ...
    @property
    def effective(self) -> Mapping[str, str]: ...
    @property
    def pid(self) -> int | None:
        """Of the process whose memory is counted for it."""
        ...

    @property
    def cache(self) -> float | None:
        """Of the tokens that it has room for (a context of each request at once), the share that requests in flight hold,
        once their prompts are read; None where that is not known."""
        ...

    @property
    def since(self) -> float | None:
        """When it was loaded (time.time)."""
        ...

    @property
    def last_used(self) -> float:
        """When a request last came or ended (time.monotonic)."""
        ...

    @property
    def load_seconds(self) -> float: ...
    @property
    def loads(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def restarts(self) -> int: ...

    @property
    def thinks(self) -> bool:
        """Whether every conversation has to be `fitted`, for its answer may begin with thoughts."""
        ...

    def fitted(self, request: Request) -> tuple[Request, Reading | None]:
        """A request with tools or thoughts as the model is to be asked it, and what finds them in its answer; None where
        they come as such. May take long. Raises Unsupported, UsageError."""
        ...

    def take(self, answer: Answer) -> None:
        """A request. Raises Busy, Unsupported and UsageError for what it cannot do, and Gone."""
        ...

    async def count(self, request: Request) -> int:
        """Tokens that would be read for a request. Raises as `take` does."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises as `take` does."""
        ...

    def load(self) -> object:
        """Not on the loop."""
        ...

    def close_if_idle(self) -> bool:
        """Take no more requests, unless some are under way."""
        ...

    def close(self, wait: float = 30.0) -> None:
        """Finish what is being computed, refuse the rest. Not on the loop."""
        ...
