"""One model that is served: a worker process, a thread and a bounded queue, and the answers that come of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slmops import run
from slmops.core.errors import Busy, EngineCrashed, SlmopsError
from slmops.engines import Options, _host
from slmops.serve.request import Began, Ended, Event, Outcome, Piece, Request
from slmops.serve.stops import Stops
from slmops.serve.tools._reader import Reader

BACK_OFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds between the starts of a worker that died each time; the last goes on."""


class Answer:
    """What comes back of a request: written by its model's thread, read on the loop of the server."""

    def __init__(self, outcome: Outcome, ended: Callable[[Outcome], None], reader: Reader | None = None) -> None:
        """On the loop that reads it. `ended` is called there once, however the request ends; `reader` finds calls."""
        self.outcome, self._ended, self._reader = outcome, ended, reader
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException]()
        self._cancelled = threading.Event()

    @property
    def request(self) -> Request:
        return self.outcome.request

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event; None when so many seconds have passed without one. Raises what the engine raised."""
        try:
            async with asyncio.timeout(seconds):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Nobody waits for it any more: the model stops at its next token. On the loop; nothing where it has ended."""
        self._cancelled.set()
        self._end("cancelled")

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def tell(self, event: Event | BaseException) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Event | BaseException) -> None:
        outcome, now = self.outcome, time.monotonic()
        match event:
            case Began():
                outcome.began = now
                outcome.prompt_tokens, outcome.cached_tokens = event.prompt_tokens, event.cached_tokens
            case Piece():
                outcome.first = outcome.first or now
                outcome.tokens += outcome.ended is None
            case Ended():
                outcome.tokens = event.tokens
                self._end(event.reason)
            case _:
                self._end(type(event).__name__)
        told = [event] if self._reader is None or isinstance(event, BaseException) else self._reader.take(event)
        for one in told:
            self._events.put_nowait(one)

    def _end(self, reason: str) -> None:
        if self.outcome.ended is None:
            self.outcome.ended, self.outcome.reason = time.monotonic(), reason
            self._ended(self.outcome)


@dataclass(frozen=True)
class State:
    """What a model is at, for people and for health checks."""

    name: str
    folder: str
    loaded: bool
    waiting: int
    effective: Mapping[str, str]


class Model:
    """One model under one name. Its thread alone talks to its worker; requests are computed in their order."""

    def __init__(self, name: str, folder: Path, engine: str | None, options: Options, depth: int) -> None:
        self.name, self.artifact = name, run.Artifact.open(folder)
        self._engine, self._options = engine, options
        self._jobs: queue.Queue[Answer | None] = queue.Queue(depth)
        self._worker: _host.Worker | None = None
        self._crashes, self._last_start = 0, 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        worker = self._worker
        return State(
            self.name,
            str(self.artifact.folder),
            worker is not None,
            self._jobs.qsize(),
            dict(worker.effective) if worker is not None else {},
        )

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return min(self._options.context, self.artifact.context)

    def take(self, answer: Answer) -> None:
        """Put a request into the queue. Raises Busy."""
        try:
            self._jobs.put_nowait(answer)
        except queue.Full:
            raise Busy(f"{self._jobs.maxsize} requests wait for {self.name} already", "try again in a moment") from None

    def close(self, wait: float = 30.0) -> None:
        """Finish what is being computed, refuse the rest, end the worker."""
        self._closing = True
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join(wait)
        if self._thread.is_alive() and self._worker is not None:
            self._worker.kill()
            self._thread.join(5)

    def _work(self) -> None:
        while not self._closing and (job := self._jobs.get()) is not None:
            if job.cancelled:
                continue
            try:
                for event in self._events(job):
                    job.tell(event)
            except Exception as error:  # whatever it is, the request must end, and the next one be served
                if isinstance(error, EngineCrashed):
                    self._drop()
                job.tell(error)
        with contextlib.suppress(queue.Empty):
            while (left := self._jobs.get_nowait()) is not None:
                left.tell(Busy("the server is about to end", "ask again when it is back"))
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _drop(self) -> None:
        worker, self._worker = self._worker, None
        self._crashes += 1
        if worker is not None:
            with contextlib.suppress(SlmopsError, OSError):
                worker.close()

    def _opened(self) -> _host.Worker:
        if self._worker is None:
            pause = BACK_OFF[min(self._crashes, len(BACK_OFF) - 1)] - (time.monotonic() - self._last_start)
            if self._crashes and pause > 0:
                time.sleep(pause)
            self._last_start = time.monotonic()
            self._worker = run.open_worker(self.artifact, self._engine, self._options)
        return self._worker

    def _events(self, job: Answer) -> Iterator[Event]:
        worker, request = self._opened(), job.request
        text = request.prompt if request.prompt is not None else self.artifact.prompt(request.messages, request.tools)
        ids = run.tokens_of(worker, self.artifact, text + request.opening)
        sampling = run.fit(request.sampling, self.artifact, len(ids), self._options.context)
        yield Began(len(ids))
        stops, count = Stops(request.stop), 0
        with contextlib.closing(worker.generate(ids, sampling)) as tokens:
            for token in tokens:
                count += token.id is not None
                if text := stops.feed(token.text):
                    yield Piece(text)
                if stops.met or job.cancelled:
                    break
        self._crashes = 0
        if rest := stops.rest():
            yield Piece(rest)
        yield Ended("length" if count >= sampling.max_tokens and not stops.met else "stop", count)
