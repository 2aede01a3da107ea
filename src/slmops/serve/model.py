"""One model that is served: a worker process, a bounded queue, the requests in flight, and the answers that come of them.

All of it happens on the server's loop but what takes long: a worker is opened, and a long conversation is rendered, in a
thread. Requests in flight are computed together where the engine can (engines.Flow).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import run
from slmops.core.errors import Busy, EngineCrashed, SlmopsError, Unsupported
from slmops.engines import Options, _host
from slmops.serve.answer import Answer as Answer
from slmops.serve.request import Began, Embedded, Ended, Logprob, Piece
from slmops.serve.stops import Stops

BACK_OFF = (0.0, 1.0, 5.0, 30.0)
"""Seconds between the starts of a worker that died each time; the last goes on."""
SHORT = 16_000
"""Letters of a conversation that are rendered on the loop: faster than handing them to a thread."""


@dataclass(frozen=True)
class State:
    """What a model is at, for people and for health checks."""

    name: str
    folder: str
    loaded: bool
    waiting: int
    running: int
    engine: str
    effective: Mapping[str, str]


class _Flight:
    """A request that the engine has."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.stops, self.tokens = answer, Stops(answer.request.stop), 0


class Model:
    """One model under one name. Up to options.parallel requests are in flight, up to `depth` wait."""

    def __init__(self, name: str, folder: Path, engine: str | None, options: Options, depth: int) -> None:
        """Raises what opening the artifact raises, EngineMissing and UsageError; nothing is loaded yet."""
        self.name, self.artifact = name, run.Artifact.open(folder)
        self.engine = run.choose_engine(self.artifact.format, engine, together=True)
        self._options = dataclasses.replace(options, reuse=True, parallel=_host.at_once(self.engine, options.parallel))
        self._most, self._depth = options.parallel, depth
        self._waiting: deque[Answer] = deque()
        self._flights: dict[int, _Flight] = {}
        self._count = self._embedding = 0
        self._worker: _host.Worker | None = None
        self._opening = threading.Lock()
        self._starting = False
        self._crashes, self._last_start = 0, 0.0
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        worker = self._worker
        effective = dict(worker.effective) if worker is not None else {}
        running, waiting = len(self._flights), len(self._waiting)
        return State(self.name, str(self.artifact.folder), worker is not None, waiting, running, self.engine, effective)

    @property
    def pid(self) -> int | None:
        """The worker's process, if it is loaded."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def load(self) -> _host.Worker:
        """The worker, started now where there is none. From any thread but the loop's. Raises what opening raises."""
        with self._opening:
            if self._worker is None:
                pause = BACK_OFF[min(self._crashes, len(BACK_OFF) - 1)] - (time.monotonic() - self._last_start)
                if self._crashes and pause > 0:
                    self._closing.wait(pause)
                if self._closing.is_set():
                    raise Busy("the server is about to end", "ask again when it is back")
                self._last_start = time.monotonic()
                worker = run.open_worker(self.artifact, self.engine, self._options)
                worker.flow(lambda lines: self._heard(worker, lines))
                self._worker = worker
            return self._worker

    # ---- on the loop

    def take(self, answer: Answer) -> None:
        """A request. Raises Busy, and Unsupported for what the engine cannot do."""
        if self._closing.is_set():
            raise Busy("the server is about to end", "ask again when it is back")
        if answer.request.adapter is not None:
            raise Unsupported("adapters are not loaded with a model here", "merge it: slmops convert MODEL --adapter FOLDER")
        _host.check_sampling(self.engine, self.artifact.format, answer.request.sampling)
        if len(self._waiting) >= self._depth:
            raise Busy(f"{self._depth} requests wait for {self.name} already", "try again in a moment")
        self._loop = asyncio.get_running_loop()
        answer.on_cancel = self._left
        self._waiting.append(answer)
        self._idle.clear()
        self._go_on()

    def _go_on(self) -> None:
        """Start what waits, as far as there is room."""
        while self._waiting and len(self._flights) < self._most and not self._starting:
            worker = self._worker
            long = sum(len(str(one.get("content", ""))) for one in self._waiting[0].request.messages) > SHORT
            if worker is None or long:
                self._starting = True
                task = asyncio.get_running_loop().create_task(self._start_slowly())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            answer = self._waiting.popleft()
            try:
                self._send(worker, answer, self._text(answer))
            except Exception as error:  # whatever it is, the request must end, and the next one be served
                answer.take(error)
        if not self._waiting and not self._flights and not self._starting:
            self._idle.set()

    async def _start_slowly(self) -> None:
        """The first that waits, with what takes long in a thread."""
        answer = self._waiting[0]
        try:
            worker = await asyncio.to_thread(self.load)
            text = await asyncio.to_thread(self._text, answer)
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

    def _text(self, answer: Answer) -> str:
        request = answer.request
        return request.prompt if request.prompt is not None else self.artifact.prompt(request.messages)

    def _send(self, worker: _host.Worker, answer: Answer, text: str) -> None:
        self._count += 1
        self._flights[self._count] = _Flight(answer)
        worker.add(self._count, run.stopping(answer.request.sampling, self.artifact), text=text, bos=self.artifact.begin)

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
                if (flight := self._flights.get(one["which"])) is not None:
                    self._news(worker, flight, one)
        self._go_on()

    def _news(self, worker: _host.Worker, flight: _Flight, one: Mapping[str, Any]) -> None:
        answer, stops = flight.answer, flight.stops
        if "cached" in one:
            answer.take(Began(one["prompt"], one["cached"]))
        if "error" in one:
            del self._flights[one["which"]]
            answer.take(worker.fault(one["error"]))
            return
        count = one.get("tokens", 0)
        flight.tokens += count
        text = stops.feed(one["text"]) if "text" in one else ""
        likely = one.get("logprobs")
        if text or likely:
            told = tuple(Logprob(word, value, tuple(map(tuple, top))) for word, value, top in likely) if likely else ()
            answer.take(Piece(text, told, count))
        if stops.met or "end" in one:
            if "end" in one:
                del self._flights[one["which"]]
            else:
                self._stop(one["which"])
            if rest := stops.rest():
                answer.take(Piece(rest, (), 0))
            self._crashes = 0
            answer.take(Ended("length" if one.get("end") == "length" and not stops.met else "stop", flight.tokens))

    def _died(self, worker: _host.Worker) -> None:
        """Its own requests fail, and what waits finds a new one."""
        if worker is not self._worker:
            return
        self._worker = None
        flights, self._flights = self._flights, {}
        if flights or not self._closing.is_set():
            self._crashes += 1
            error = worker.crashed()
            for flight in flights.values():
                flight.answer.take(error)
        with contextlib.suppress(SlmopsError, OSError):
            worker.close()
        self._go_on()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector for each text, one text at a time between the steps of the requests in flight."""
        _host.check_can(self.engine, self.artifact.format, "embed")
        if self._embedding >= self._depth:
            raise Busy(f"{self._embedding} requests wait for {self.name} already", "try again in a moment")
        self._embedding += 1
        try:
            worker = await asyncio.to_thread(self.load)
            found = [await asyncio.to_thread(worker.embed, text, self.artifact.begin) for text in texts]
        finally:
            self._embedding -= 1
        return Embedded(tuple(vector for vector, _ in found), sum(count for _, count in found))

    # ---- from other threads

    def _heard(self, worker: _host.Worker, lines: list[bytes]) -> None:
        """On the worker's listening thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._came, worker, lines)

    def close(self, wait: float = 30.0) -> None:
        """Finish what is being computed, refuse the rest, end the worker. Not on the loop."""
        self._closing.set()
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._refuse)
            self._idle.wait(wait)
        with self._opening:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _refuse(self) -> None:
        while self._waiting:
            self._waiting.popleft().take(Busy("the server is about to end", "ask again when it is back"))
        self._go_on()
