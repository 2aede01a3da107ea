"""The desk that every wire format asks at: who may have what is asked here, and every outcome is told from here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from slmops.core.errors import SourceNotFound, Unreachable, Unsupported
from slmops.serve import tools
from slmops.serve.answer import Answer, Reading
from slmops.serve.backend import Backend, Gone
from slmops.serve.models import Models
from slmops.serve.request import Caller, Embedded, Outcome, Request

T = TypeVar("T")


class Watcher(Protocol):
    """Limits, metrics, the audit log. Both are called on the server's loop and must not wait."""

    def admit(self, request: Request, caller: Caller) -> None:
        """Raises PolicyRefused (not for this caller) or Busy (not now)."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """Once for each request that was admitted."""
        ...


class Desk:
    """What wire formats are given: `routes(desk)`."""

    def __init__(self, models: Models, watchers: Sequence[Watcher] = (), timeout: float | None = None) -> None:
        """timeout: seconds from the asking to the last token, waiting included, after which a request is given up."""
        self.models, self._watchers, self._timeout = models, tuple(watchers), timeout

    async def names(self, caller: Caller) -> list[str]:
        """The models that a caller may use: what every wire format lists."""
        # Once the registry has changed its catalog is read: not on the loop that all connections share.
        return _used(await asyncio.to_thread(lambda: self.models.names), caller)

    async def ask(self, request: Request, caller: Caller) -> Answer:
        """The answer, whose events then come. Raises SourceNotFound, PolicyRefused, Busy, and what opening raises."""
        outcome = Outcome(request, caller)
        with self._admitted(outcome):

            async def take(model: Backend) -> Answer:
                outcome.request, reading = await _fitted(request, model)
                answer = self._answer(outcome, reading)
                model.take(answer)
                return answer

            return await self._given(outcome, take)

    async def embed(self, model: str, texts: Sequence[str], caller: Caller) -> Embedded:
        """A vector for each text. Raises what `ask` raises, Unsupported where the engine has none, and UsageError for a text
        that does not fit into the context."""
        outcome = Outcome(Request(model, texts=tuple(texts)), caller)

        async def embed(one: Backend) -> Embedded:
            if outcome.served is not None and outcome.served.base:
                raise Unsupported(
                    "no vectors are computed through an adapter", f"the model {outcome.served.base} gives its own"
                )
            return await one.embed(texts)

        with self._admitted(outcome):
            found = await self._given(outcome, embed)
        outcome.prompt_tokens, outcome.ended, outcome.reason = found.prompt_tokens, time.monotonic(), "stop"
        self._ended(outcome)
        return found

    async def count(self, request: Request, caller: Caller) -> int:
        """Tokens that the model would read for a request. Raises what `ask` raises."""
        outcome = Outcome(request, caller)

        async def count(model: Backend) -> int:
            outcome.request, _ = await _fitted(request, model)
            return await model.count(outcome.request)

        with self._admitted(outcome):
            found = await self._given(outcome, count)
        outcome.ended, outcome.reason = time.monotonic(), "stop"
        self._ended(outcome)
        return found

    async def _given(self, outcome: Outcome, give: Callable[[Backend], Awaitable[T]]) -> T:
        """Give a request to what its name leads to. Raises Unreachable when its time is over."""
        name = outcome.request.model
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    # Opening reads files: not on the loop that all connections share.
                    model = self.models.at_hand(name)
                    if model is None:
                        model = await asyncio.to_thread(self.models.get, name)
                    outcome.served = model.served.get(name)
                    with contextlib.suppress(Gone):  # unloaded in between
                        return await give(model)
        except TimeoutError:
            raise self._late() from None

    @contextlib.contextmanager
    def _admitted(self, outcome: Outcome) -> Iterator[None]:
        """Past every watcher; they are told where it goes wrong."""
        outcome.caller.trail.outcomes.append(outcome)
        admitted: list[Watcher] = []
        try:
            for watcher in self._watchers:
                watcher.admit(outcome.request, outcome.caller)
                admitted.append(watcher)
            yield
        except BaseException as error:
            outcome.ended, outcome.reason, outcome.fault = time.monotonic(), type(error).__name__, error
            for watcher in admitted:
                watcher.ended(outcome)
            if isinstance(error, SourceNotFound) and outcome.caller.models != ("*",):
                # The names of others' models are not theirs to know.
                fault = f"no model {outcome.request.model[:100]!r} is served here"
                # Looking for it has just listed them: nothing is read here.
                raise SourceNotFound(fault, f"one of: {', '.join(_used(self.models.names, outcome.caller)[:20])}") from None
            raise

    def _answer(self, outcome: Outcome, reading: Reading | None) -> Answer:
        if self._timeout is None:
            return Answer(outcome, self._ended, reading)

        def ended(outcome: Outcome) -> None:
            late.cancel()
            self._ended(outcome)

        answer = Answer(outcome, ended, reading)
        left = outcome.asked + self._timeout - time.monotonic()
        late = asyncio.get_running_loop().call_later(left, answer.give_up, self._late())
        return answer

    def _late(self) -> Unreachable:
        return Unreachable(f"it was not answered within {self._timeout:g} s", "ask for fewer tokens, or later")

    def _ended(self, outcome: Outcome) -> None:
        for watcher in self._watchers:
            watcher.ended(outcome)


def _used(names: Sequence[str], caller: Caller) -> list[str]:
    return [name for name in names if caller.uses(name)]


async def _fitted(request: Request, model: Backend) -> tuple[Request, Reading | None]:
    """What the model is to be asked, and what tells the parts of its answer apart."""
    request = request.own(model.defaults)
    thinking = request.think or (model.thinks and request.prompt is None)
    if not request.tools and not thinking and not tools.concerned(request):
        return request, None
    return await asyncio.to_thread(model.fitted, request)
