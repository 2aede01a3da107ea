"""The desk that every wire format asks at: who may have what is asked here, and every outcome is told from here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from slmops.core.errors import SourceNotFound, Unreachable
from slmops.serve.model import Answer
from slmops.serve.models import Models
from slmops.serve.request import Caller, Outcome, Request


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

    def names(self, caller: Caller) -> list[str]:
        """The models that a caller may use: what every wire format lists."""
        return [name for name in self.models.names if caller.uses(name)]

    async def ask(self, request: Request, caller: Caller) -> Answer:
        """The answer, whose events then come. Raises SourceNotFound, PolicyRefused, Busy, and what opening raises."""
        outcome = Outcome(request, caller)
        admitted: list[Watcher] = []
        try:
            for watcher in self._watchers:
                watcher.admit(request, caller)
                admitted.append(watcher)
            # Opening reads files: not on the loop that all connections share.
            model = await asyncio.to_thread(self.models.get, request.model)
            answer = self._answer(outcome)
            model.take(answer)
        except BaseException as error:
            outcome.reason = type(error).__name__
            for watcher in admitted:
                watcher.ended(outcome)
            if isinstance(error, SourceNotFound) and caller.models != ("*",):
                offer = ", ".join(self.names(caller)[:20])  # the names of others' models are not theirs to know
                raise SourceNotFound(f"no model {request.model[:100]!r} is served here", f"one of: {offer}") from None
            raise
        return answer

    def _answer(self, outcome: Outcome) -> Answer:
        if self._timeout is None:
            return Answer(outcome, self._ended)

        def ended(outcome: Outcome) -> None:
            late.cancel()
            self._ended(outcome)

        def give_up() -> None:
            answer.tell(Unreachable(f"it was not answered within {self._timeout:g} s", "ask for fewer tokens, or later"))
            loop.call_soon(answer.cancel)  # once that is told

        loop, answer = asyncio.get_running_loop(), Answer(outcome, ended)
        late = loop.call_later(self._timeout, give_up)
        return answer

    def _ended(self, outcome: Outcome) -> None:
        for watcher in self._watchers:
            watcher.ended(outcome)
