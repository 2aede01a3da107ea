"""One model that is served: a worker process, a bounded queue, the requests in flight, and the answers that come of them.

All of it happens on the server's loop but what takes long: a worker is opened, and a long conversation is rendered, in a
thread. Requests in flight are computed together where the engine can (engines.Flow).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slmops import run
from slmops.core.defaults import Defaults
from slmops.core.errors import Busy, EngineCrashed, SlmopsError, UsageError
from slmops.engines import Options, Sampling, _host, _installed
from slmops.serve import thoughts, tools
from slmops.serve.answer import Answer as Answer
from slmops.serve.answer import Reading
from slmops.serve.backend import Gone
from slmops.serve.flight import Flight
from slmops.serve.request import Embedded, Ended, Request, Served

BACK_OFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds between the starts of a worker that died each time, or could not be started; the last goes on."""
AGAIN = 0.5
"""Seconds in which all are told that there was no memory: who waits beside has waited as long."""
SHORT = 16_000
"""Letters of a conversation that are rendered on the loop: faster than handing them to a thread."""
SLOW = 0.05
"""Seconds: a template that took as long there has a thread from then on. It is the model's, and may be hostile."""

log = logging.getLogger("slmops.model")


class Model:
    """One model, loaded once under whatever names. Up to options.parallel requests are in flight, up to `depth` wait."""

    def __init__(
        self, name: str, artifact: run.Artifact, engine: str | None, options: Options, depth: int, *, warm: bool = False
    ) -> None:
        """warm: a token is generated at each start, so that the first request finds caches filled.

        Raises EngineMissing and UsageError; nothing is loaded yet."""
        self.name, self.artifact, self.thinks = name, artifact, thoughts.thinks(artifact)
        self.engine = run.choose_engine(self.artifact.format, engine, together=True, adapts=bool(options.adapters))
        self.options = dataclasses.replace(options, reuse=True, parallel=_installed.at_once(self.engine, options.parallel))
        self._most, self._depth, self._warm = options.parallel, depth, warm
        self.room: Callable[[], None] = lambda: None
        """Called before each start of a worker; returns when there is memory for it. Raises Busy, Unsupported."""
        self.ready: Callable[[], None] = lambda: None
        """Called when a worker has started."""
        self.served: dict[str, Served] = {}
        """The names that lead to it, and what it is under each."""
        self.last_used = time.monotonic()
        """When a request last came or ended."""
        self.loads = self.failures = self.restarts = 0
        """Starts of its worker, those that failed, and deaths of it."""
        self.since: float | None = None
        """When its worker was ready (time.time), None while there is none."""
        self.load_seconds = 0.0
        self.fault: SlmopsError | None = None
        """Why the last start failed; told to every request until `_fault_until`."""
        self._fault_until, self._faults = 0.0, 0
        self._asked = threading.Lock()
        self._waiting: deque[Answer] = deque()
        self._flights: dict[int, Flight] = {}
        self._count = self._embedding = 0
        self._worker: _host.Worker | None = None
        self._opening = threading.Lock()
        self._starting = self._slow = False
        self._crashes, self._last_start = 0, 0.0
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return len(self._flights) + self._embedding

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Requests that were taken and have not ended; and one, while its worker is being started."""
        return len(self._waiting) + len(self._flights) + self._embedding + self._opening.locked()

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    @property
    def loaded(self) -> bool:
        return self.since is not None

    @property
    def failing(self) -> bool:
        """Whether its start failed so lately that it is not tried again yet."""
        return self.fault is not None and time.monotonic() < self._fault_until

    @property
    def effective(self) -> Mapping[str, str]:
        """What really runs; empty while nothing does."""
        worker = self._worker
        return dict(worker.effective) if worker is not None else {}

    @property
    def cache(self) -> float | None:
        """See Backend. llama-server divides just so many cells among its slots; others take memory as they need it."""
        if self._worker is None:
            return None
        flights = list(self._flights.values())  # another thread may ask
        return sum(one.answer.outcome.prompt_tokens + one.tokens for one in flights) / (self.context * self._most)

    @property
    def pid(self) -> int | None:
        """The worker's process, if it is loaded."""
        worker = self._worker
        return worker.pid if worker is not None else None

    @property
    def format(self) -> str:
        return self.artifact.format

    @property
    def defaults(self) -> Defaults:
        return self.artifact.defaults

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return min(self.options.context, self.artifact.context)

    def load(self) -> _host.Worker:
        """The worker, started now where there is none. From any thread but the loop's. Raises what opening raises."""
        with self._opening:
            if self._worker is None:
                self._worker = self._opened()
                self.ready()
            return self._worker

    def _opened(self) -> _host.Worker:
        if self.fault is not None and self.failing:
            raise self.fault
        pause = BACK_OFF[min(self._crashes, len(BACK_OFF) - 1)] - (time.monotonic() - self._last_start)
        if self._crashes and pause > 0:
            self._closing.wait(pause)
        try:
            self.room()
            if self._closing.is_set():
                raise Busy("the server is about to end", "ask again when it is back", cause="draining")
            self._last_start = time.monotonic()
            worker = run.open_worker(self.artifact, self.engine, self.options)
            try:
                if self._warm:
                    first = run.tokens_of(worker, self.artifact, "\n") or [0]
                    for _ in worker.generate(first, Sampling(max_tokens=1)):
                        pass
                worker.flow(lambda lines: self._heard(worker, lines))
            except BaseException:
                worker.close()
                raise
        except SlmopsError as error:
            self.fault, again = error, AGAIN
            if not isinstance(error, Busy):
                self._faults += 1
                self.failures += 1
                again = BACK_OFF[min(self._faults, len(BACK_OFF) - 1)]
                log.error("cannot be loaded", extra={"model": self.name, "fault": str(error), "cure": error.cure})
            self._fault_until = time.monotonic() + again
            raise
        self.fault, self._faults = None, 0
        self.loads += 1
        self.since, self.last_used = time.time(), time.monotonic()
        self.load_seconds = self.last_used - self._last_start
        return worker

    def fitted(self, request: Request) -> tuple[Request, Reading | None]:
        """See Backend. The first time, the model's template is tried out."""
        return thoughts.fit(*tools.fit(request, self.artifact), self.artifact)

    # ---- on the loop

    def take(self, answer: Answer) -> None:
        """A request. Raises Busy, Unsupported for what the engine cannot do, and Gone where it was closed meanwhile."""
        _installed.check_sampling(self.engine, self.artifact.format, answer.request.sampling)
        if len(self._waiting) >= self._depth:
            raise Busy(f"{self._depth} requests wait for {self.name} already", "try again in a moment", cause="queue")
        self._loop = asyncio.get_running_loop()
        answer.on_cancel = self._left
        with self._asked:
            if self._closing.is_set():
                raise Gone
            self._waiting.append(answer)
            self._idle.clear()
        self.last_used = time.monotonic()
        self._go_on()

    def _go_on(self) -> None:
        """Start what waits, as far as there is room."""
        while self._waiting and len(self._flights) < self._most and not self._starting:
            worker = self._worker
            long = sum(len(str(one.get("content", ""))) for one in self._waiting[0].request.messages) > SHORT
            if worker is None or long or self._slow:
                self._starting = True
                task = asyncio.get_running_loop().create_task(self._start_slowly())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            answer, began = self._waiting.popleft(), time.monotonic()
            try:
                self._send(worker, answer, self._text(answer.request))
            except Exception as error:  # whatever it is, the request must end, and the next one be served
                answer.take(error)
            self._slow = time.monotonic() - began > SLOW
        if not self._waiting and not self._flights and not self._starting:
            self.last_used = time.monotonic()
            self._idle.set()

    async def _start_slowly(self) -> None:
        """The first that waits, with what takes long in a thread."""
        answer = self._waiting[0]
        try:
            worker = await asyncio.to_thread(self.load)
            text = await asyncio.to_thread(self._text, answer.request)
            if answer in self._waiting:
                self._waiting.remove(answer)
                self._send(worker, answer, text)
        except Exception as error:
            if isinstance(error, EngineCrashed):
                self._crashes += 1
            if answer in self._waiting:
                self._waiting.remove(answer)
            answer.take(error)
        finally:
            self._starting = False
            self._go_on()

    def _text(self, request: Request) -> str | tuple[int, ...]:
        if request.prompt is None:
            return self.artifact.prompt(request.messages, request.tools, request.think) + request.opening
        if not isinstance(request.prompt, str) and not all(0 <= one < self.artifact.vocab for one in request.prompt):
            raise UsageError(f"the tokens of this model are 0 to {self.artifact.vocab - 1}", "check the tokenizer")
        return request.prompt

    def _send(self, worker: _host.Worker, answer: Answer, text: str | tuple[int, ...]) -> None:
        self._count += 1
        self._flights[self._count] = Flight(answer)
        sampling, begin = run.stopping(answer.request.sampling, self.artifact), self.artifact.begin
        if (served := answer.outcome.served) is not None and served.adapter is not None:
            sampling = dataclasses.replace(sampling, adapter=served.adapter)
        if isinstance(text, str):
            worker.add(self._count, sampling, text=text, bos=begin)
        else:
            worker.add(self._count, sampling, ids=text)

    def _left(self, answer: Answer) -> None:
        """Nobody waits for an answer any more."""
        if answer in self._waiting:
            self._waiting.remove(answer)
        for which in [number for number, one in self._flights.items() if one.answer is answer]:
            self._stop(which)
        self._go_on()

    def _stop(self, which: int) -> None:
        del self._flights[which]
        if self._worker is not None:
            self._worker.drop(which)

    def _came(self, worker: _host.Worker, lines: Sequence[bytes]) -> None:
        if not lines:
            self._died(worker)
            return
        for line in lines:
            for one in json.loads(line)["news"]:
                if one["which"] in self._flights:
                    self._news(worker, one["which"], one)
        self._go_on()

    def _news(self, worker: _host.Worker, which: int, one: Mapping[str, Any]) -> None:
        flight = self._flights[which]
        if "error" in one:
            del self._flights[which]
            fault = worker.fault(one["error"])
            flight.answer.take(fault)
            if isinstance(fault, EngineCrashed):
                worker.kill()  # what it kept has died under it: a new one is started for the next request
            return
        events = flight.read(one)
        # Its place is free before it is told: whoever hears an event may end the request (Answer.take).
        if events and isinstance(events[-1], Ended):
            self._crashes = 0
            if "end" in one:
                del self._flights[which]
            else:
                self._stop(which)
        for event in events:
            flight.answer.take(event)

    def _died(self, worker: _host.Worker) -> None:
        """Its own requests fail, and what waits finds a new one."""
        if worker is not self._worker:
            return
        self._worker = self.since = None
        flights, self._flights = self._flights, {}
        if flights or not self._closing.is_set():
            self._crashes += 1
            self.restarts += 1
            error = worker.crashed()
            log.error("its worker died", extra={"model": self.name, "fault": str(error), "requests": len(flights)})
            for flight in flights.values():
                flight.answer.take(error)
        with contextlib.suppress(SlmopsError, OSError):
            worker.close()
        self._go_on()

    async def count(self, request: Request) -> int:
        """Tokens that the engine would read for a request. Raises as `take` does."""
        with self._between():
            worker = await asyncio.to_thread(self.load)
            text = await asyncio.to_thread(self._text, request)
            if isinstance(text, str):
                return len(await asyncio.to_thread(run.tokens_of, worker, self.artifact, text))
        return len(text)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector for each text, one text at a time between the steps of the requests in flight. Raises as `take` does."""
        _installed.check_can(self.engine, self.artifact.format, "embed")
        with self._between():
            worker = await asyncio.to_thread(self.load)
            found = [await asyncio.to_thread(worker.embed, text, self.artifact.begin) for text in texts]
        return Embedded(tuple(vector for vector, _ in found), sum(count for _, count in found))

    @contextlib.contextmanager
    def _between(self) -> Iterator[None]:
        """Something is asked of the worker that is no request in flight. Raises Busy and Gone."""
        if self._embedding >= self._depth:
            raise Busy(f"{self._embedding} requests wait for {self.name} already", "try again in a moment", cause="queue")
        with self._asked:
            if self._closing.is_set():
                raise Gone
            self._embedding += 1
        try:
            yield
        finally:
            self._embedding -= 1
            self.last_used = time.monotonic()

    # ---- from other threads

    def _heard(self, worker: _host.Worker, lines: list[bytes]) -> None:
        """On the worker's listening thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._came, worker, lines)
        elif not lines:
            self._died(worker)  # before anyone asked it anything

    def close_if_idle(self) -> bool:
        """Take no more requests, unless some are under way; `close` ends it then."""
        with self._asked:
            if self.busy and not self._closing.is_set():
                return False
            self._closing.set()
            return True

    def close(self, wait: float = 30.0) -> None:
        """Finish what is being computed, refuse the rest, end the worker. Not on the loop."""
        with self._asked:
            self._closing.set()
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._refuse)
            self._idle.wait(wait)
        with self._opening:
            worker, self._worker, self.since = self._worker, None, None
        if worker is not None:
            worker.close()

    def _refuse(self) -> None:
        while self._waiting:
            self._waiting.popleft().take(Busy("the server is about to end", "ask again when it is back", cause="draining"))
        self._go_on()
