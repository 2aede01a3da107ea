"""One model that is served: a worker process, a thread and a bounded queue, and the answers that come of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from slmops import run
from slmops.core.errors import Busy, EngineCrashed, SlmopsError
from slmops.engines import Options, Sampling, _host
from slmops.serve.request import Began, Ended, Event, Outcome, Piece, Request, Served
from slmops.serve.stops import Stops
from slmops.serve.tools._reader import Reader

BACK_OFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds between the starts of a worker that died each time; the last goes on."""

log = logging.getLogger("slmops.model")


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
                if outcome.ended is None:
                    outcome.tokens += 1
                    outcome.piece(now)
            case Ended():
                outcome.tokens = event.tokens
                self._end(event.reason)
            case BaseException():
                outcome.fault = outcome.fault or event
                self._end(type(event).__name__)
        told = [event] if self._reader is None or isinstance(event, BaseException) else self._reader.take(event)
        for one in told:
            self._events.put_nowait(one)

    def _end(self, reason: str) -> None:
        if self.outcome.ended is None:
            self.outcome.ended, self.outcome.reason = time.monotonic(), reason
            self._ended(self.outcome)


class Gone(Exception):
    """The model was unloaded between being found and being asked: look it up again."""


class Model:
    """One model, loaded once under whatever names. Its thread alone talks to its worker; requests are computed in order."""

    def __init__(
        self,
        name: str,
        artifact: run.Artifact,
        engine: str | None,
        options: Options,
        depth: int,
        *,
        warm: bool = False,
    ) -> None:
        """warm: a token is generated at each start, so that the first request finds caches filled."""
        self.name, self.artifact = name, artifact
        self._engine, self._options, self._warm = engine, options, warm
        self.room: Callable[[], None] = lambda: None
        """Called before each start of a worker; returns when there is memory for it. Raises Busy, Unsupported."""
        self.served: dict[str, Served] = {}
        """The names that lead to it, and what it is under each."""
        self._jobs: queue.Queue[Answer | Future[None] | None] = queue.Queue(depth + 1)  # and one load
        self.depth = depth
        self._worker: _host.Worker | None = None
        self._crashes, self._last_start = 0, 0.0
        self._closing, self._lock = False, threading.Lock()
        self.busy, self.last_used = 0, time.monotonic()
        """Requests that were taken and have not ended; when one last came or ended."""
        self.running = 0
        self.loads = self.failures = self.restarts = 0
        """Starts of its worker, those that failed, and those after it died."""
        self.since: float | None = None
        """When its worker was ready (time.time), None while there is none."""
        self.load_seconds = 0.0
        self.fault: SlmopsError | None = None
        """Why the last start failed; told to every request until `fault_until`."""
        self.fault_until, self._faults = 0.0, 0
        self._loading: Future[None] | None = None
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def loaded(self) -> bool:
        return self.since is not None

    @property
    def failing(self) -> bool:
        """Whether its start failed so lately that it is not tried again yet."""
        return self.fault is not None and time.monotonic() < self.fault_until

    @property
    def effective(self) -> Mapping[str, str]:
        """What really runs; empty while nothing does."""
        worker = self._worker
        return dict(worker.effective) if worker is not None else {}

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker is not None else None

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return min(self._options.context, self.artifact.context)

    def take(self, answer: Answer) -> None:
        """Put a request into the queue. Raises Busy, and Gone where it was closed meanwhile."""
        with self._lock:
            if self._closing:
                raise Gone
            if self.busy - self.running >= self.depth:
                raise Busy(f"{self.depth} requests wait for {self.name} already", "try again in a moment", cause="queue")
            self.busy += 1
            self.last_used = time.monotonic()
            self._jobs.put_nowait(answer)

    def load(self) -> Future[None]:
        """Start its worker, if it has none. The future raises what opening raises, and Gone."""
        with self._lock:
            if self._loading is not None and not self._loading.done():
                return self._loading
            done = self._loading = Future()
            if self._closing:
                done.set_exception(Gone())
            elif self.loaded:
                done.set_result(None)
            else:
                self._jobs.put_nowait(done)
        return done

    def close_if_idle(self) -> bool:
        """Take no more requests, unless some are under way; `close` ends it then."""
        with self._lock:
            if self.busy and not self._closing:
                return False
            self._closing = True
            return True

    def close(self, wait: float = 30.0) -> None:
        """Finish what is being computed, refuse the rest, end the worker."""
        with self._lock:
            self._closing = True
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join(wait)
        if self._thread.is_alive() and self._worker is not None:
            self._worker.kill()
            self._thread.join(5)

    def _work(self) -> None:
        while not self._closing and (job := self._jobs.get()) is not None:
            if isinstance(job, Future):
                try:
                    self._opened()
                    job.set_result(None)
                except Exception as error:
                    job.set_exception(error)
                continue
            self.running = 1
            try:
                if not job.cancelled:
                    for event in self._events(job):
                        job.tell(event)
            except Exception as error:  # whatever it is, the request must end, and the next one be served
                if isinstance(error, EngineCrashed):
                    self._drop()
                job.tell(error)
            finally:
                self._over()
        with contextlib.suppress(queue.Empty):
            while True:
                left = self._jobs.get_nowait()
                if isinstance(left, Future):
                    left.set_exception(Gone())
                elif left is not None:
                    left.tell(Busy("the server is about to end", "ask again when it is back", cause="draining"))
                    self._over()
        self.since = None
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _over(self) -> None:
        with self._lock:
            self.busy, self.running, self.last_used = self.busy - 1, 0, time.monotonic()

    def _drop(self) -> None:
        worker, self._worker, self.since = self._worker, None, None
        self._crashes += 1
        self.restarts += 1
        if worker is not None:
            with contextlib.suppress(SlmopsError, OSError):
                worker.close()

    def _opened(self) -> _host.Worker:
        if self._worker is None:
            if self.fault is not None and self.failing:
                raise self.fault
            pause = BACK_OFF[min(self._crashes, len(BACK_OFF) - 1)] - (time.monotonic() - self._last_start)
            if self._crashes and pause > 0:
                time.sleep(pause)
            self._last_start = time.monotonic()
            try:
                self.room()
                began = time.monotonic()
                self._worker = run.open_worker(self.artifact, self._engine, self._options)
                if self._warm:
                    first = run.tokens_of(self._worker, self.artifact, "\n") or [0]
                    for _ in self._worker.generate(first, Sampling(max_tokens=1)):
                        pass
            except SlmopsError as error:
                if self._worker is not None:
                    self._worker.close()
                    self._worker = None
                self.fault = error
                if not isinstance(error, Busy):
                    self._faults += 1
                    self.failures += 1
                    log.error("cannot be loaded", extra={"model": self.name, "fault": str(error), "cure": error.cure})
                # Who waits in the queue for memory has waited as long as this one.
                again = 0.5 if isinstance(error, Busy) else BACK_OFF[min(self._faults, len(BACK_OFF) - 1)]
                self.fault_until = time.monotonic() + again
                raise
            self.fault, self._faults = None, 0
            self.loads += 1
            self.since, self.load_seconds = time.time(), time.monotonic() - began
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
