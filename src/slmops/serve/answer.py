"""What comes back of a request: its events, as many as have come at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from slmops.core.errors import SlmopsError
from slmops.serve.request import Began, Ended, Event, Outcome, Piece, Request, Thought


class Reading(Protocol):
    """What tells the parts of an answer apart: thoughts, text, calls."""

    @property
    def enough(self) -> bool:
        """Whether nothing more is wanted."""
        ...

    def take(self, event: Event) -> list[Event]:
        """What is certain now."""
        ...


class Answer:
    """Written by its model and read by a wire format, both on the server's loop."""

    def __init__(self, outcome: Outcome, ended: Callable[[Outcome], None], reading: Reading | None = None) -> None:
        """`ended` is called once, however the request ends."""
        self.outcome, self._ended, self._reading = outcome, ended, reading
        self._events: deque[Event | BaseException] = deque()
        self._reader: asyncio.Future[None] | None = None
        self.on_cancel: Callable[[Answer], None] | None = None
        """What its model does when nobody waits for it any more."""
        self.cancelled = False

    @property
    def request(self) -> Request:
        return self.outcome.request

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event; None when so many seconds have passed without one. Raises what the engine raised, and RuntimeError
        behind the last event: nothing would ever come."""
        if not self._events:
            if self.outcome.ended is not None:
                raise RuntimeError("the answer has ended")
            loop = asyncio.get_running_loop()
            self._reader = loop.create_future()
            timer = loop.call_later(seconds, self._wake) if seconds is not None else None
            try:
                await self._reader
            finally:
                self._reader = None
                if timer is not None:
                    timer.cancel()
            if not self._events:
                return None
        event = self._events.popleft()
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Nobody waits for it any more: its place is free at once. Nothing where it has ended."""
        if self.outcome.ended is None:
            self.cancelled = True
            self._end("cancelled")
            if self.on_cancel is not None:
                self.on_cancel(self)

    def give_up(self, error: SlmopsError) -> None:
        """It ends with this error, and its place is free at once. Nothing where it has ended."""
        if self.outcome.ended is None:
            self.take(error)
            if self.on_cancel is not None:
                self.on_cancel(self)

    def take(self, event: Event | BaseException) -> None:
        """From its model."""
        if self.cancelled:
            return
        outcome = self.outcome
        match event:
            case Piece():
                outcome.piece(time.monotonic())
                outcome.tokens += event.tokens
            case Began():
                outcome.began = time.monotonic()
                outcome.prompt_tokens, outcome.cached_tokens = event.prompt_tokens, event.cached_tokens
            case Ended(prompt=Began() as prompt):
                outcome.prompt_tokens, outcome.cached_tokens = prompt.prompt_tokens, prompt.cached_tokens
        if self._reading is None or isinstance(event, BaseException):
            self._put(event)
            return
        for one in self._reading.take(event):
            self._put(one)
        if self._reading.enough and outcome.ended is None:
            # What the model goes on to write is not wanted: its place is free at once.
            self._put(Ended("tool_calls", outcome.tokens))
            self.cancelled = True
            if self.on_cancel is not None:
                self.on_cancel(self)

    def _put(self, event: Event | BaseException) -> None:
        """For the reader. A piece joins one that nobody has taken yet."""
        events = self._events
        match event:
            case Piece():
                if events and isinstance(last := events[-1], Piece):
                    events[-1] = Piece(last.text + event.text, last.logprobs + event.logprobs, last.tokens + event.tokens)
                    return
            case Thought():
                if events and isinstance(last := events[-1], Thought):
                    events[-1] = Thought(last.text + event.text)
                    return
            case Ended():
                self.outcome.tokens = event.tokens
                self._end(event.reason)
            case BaseException():
                self.outcome.fault = event
                self._end(type(event).__name__)
        events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _end(self, reason: str) -> None:
        if self.outcome.ended is None:
            self.outcome.ended, self.outcome.reason = time.monotonic(), reason
            self._ended(self.outcome)
