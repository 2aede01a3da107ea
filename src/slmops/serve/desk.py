"""The desk that every wire format asks at: who may have what is asked here, and every outcome is told from here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from slmops.serve import tools
from slmops.serve.model import Answer, Gone
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

    def __init__(self, models: Models, watchers: Sequence[Watcher] = ()) -> None:
        self.models, self._watchers = models, tuple(watchers)

    async def ask(self, request: Request, caller: Caller) -> Answer:
        """The answer, whose events then come. Raises SourceNotFound, PolicyRefused, Busy, and what opening raises."""
        outcome = Outcome(request, caller)
        caller.trail.outcomes.append(outcome)
        admitted: list[Watcher] = []
        try:
            for watcher in self._watchers:
                watcher.admit(request, caller)
                admitted.append(watcher)
            while True:
                # Opening reads files: not on the loop that all connections share.
                model = self.models.at_hand(request.model)
                if model is None:
                    model = await asyncio.to_thread(self.models.get, request.model)
                outcome.served = model.served.get(request.model)
                outcome.request, reader = await asyncio.to_thread(tools.fit, request, model.artifact)
                answer = Answer(outcome, self._ended, reader)
                try:
                    model.take(answer)
                    break
                except Gone:  # unloaded in between
                    continue
        except BaseException as error:
            outcome.reason, outcome.fault, outcome.ended = type(error).__name__, error, time.monotonic()
            for watcher in admitted:
                watcher.ended(outcome)
            raise
        return answer

    def _ended(self, outcome: Outcome) -> None:
        for watcher in self._watchers:
            watcher.ended(outcome)
