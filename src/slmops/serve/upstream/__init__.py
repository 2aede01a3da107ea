"""A model that another server computes: vLLM, llama-server, another slmops, whatever speaks OpenAI's API.

    body.py     a request as it goes out
    client.py   the connection
    events.py   what comes back

Nothing is asked of it until a request comes. Conversations go out as they are: the other server has the template.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from slmops.core.defaults import Defaults
from slmops.core.errors import Busy, EngineFailed, SlmopsError, Unsupported
from slmops.serve.answer import Answer, Reading
from slmops.serve.backend import Gone
from slmops.serve.names import Remote
from slmops.serve.request import Embedded, Request, Served
from slmops.serve.upstream import events
from slmops.serve.upstream.body import path_and_body
from slmops.serve.upstream.client import SILENT_SECONDS, Client

MOST_DIMENSIONS = 1 << 16

log = logging.getLogger("slmops.upstream")


class Upstream:
    """One model of another server (Backend). All requests go out at once: that server has a queue of its own."""

    engine, format = "upstream", ""
    artifact = context = fault = pid = cache = None
    defaults = Defaults()
    failing = thinks = False
    waiting = failures = restarts = 0
    load_seconds = 0.0

    def __init__(self, name: str, source: Remote, most: int, silent: float = SILENT_SECONDS) -> None:
        """most: requests that may be there together. Raises UsageError without its key."""
        self._name, self._source, self._most = name, source, most
        self._client = Client(name, source, silent)
        self.served: dict[str, Served] = {}
        self.since: float | None = None
        self.last_used = time.monotonic()
        self.loads = 0
        self._asked = threading.Lock()
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[Answer, asyncio.Task[None]] = {}
        self._embedding = 0

    @property
    def running(self) -> int:
        return len(self._tasks) + self._embedding

    @property
    def busy(self) -> int:
        return self.running

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    @property
    def loaded(self) -> bool:
        return self.since is not None

    @property
    def effective(self) -> Mapping[str, str]:
        return {"upstream": f"{self._source.url}#{self._source.model}"}

    def load(self) -> None:
        """There is nothing to load, and nothing is asked."""
        if self.since is None:
            self.since, self.last_used, self.loads = time.time(), time.monotonic(), self.loads + 1

    def fitted(self, request: Request) -> tuple[Request, Reading | None]:
        """Calls and thoughts are the other server's to find."""
        return request, None

    def take(self, answer: Answer) -> None:
        """See Backend."""
        path, body = path_and_body(answer.request, self._source.model)
        self._enter()
        answer.on_cancel = self._left
        self._tasks[answer] = asyncio.get_running_loop().create_task(self._follow(answer, path, body))

    async def _follow(self, answer: Answer, path: str, body: Mapping[str, Any]) -> None:
        try:
            heard = events.Heard(answer.request, self._client.told)
            async with contextlib.aclosing(self._client.events(path, body)) as stream:
                async for data in stream:
                    for event in heard.take(data):
                        answer.take(event)
                    if heard.whole:
                        await self._client.finish(stream)
                        break
            if not heard.whole:
                for event in heard.end():
                    answer.take(event)
        except SlmopsError as fault:
            answer.take(fault)
        except Exception as fault:  # whatever it is, the request must end
            log.exception("following %s", self._name)
            answer.take(EngineFailed(f"what {self._name} answered could not be read: {fault!r}"))
        finally:
            self._tasks.pop(answer, None)
            self._leave()

    def _left(self, answer: Answer) -> None:
        """Nobody waits for it any more: the connection is closed, which is how the other server is told."""
        if (task := self._tasks.pop(answer, None)) is not None:
            task.cancel()
            self._leave()

    async def count(self, request: Request) -> int:
        """Raises Unsupported."""
        raise Unsupported("another server computes this model, and OpenAI's API counts no tokens", "ask that server")

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See Backend."""
        self._enter()
        self._embedding += 1
        try:
            body = {"model": self._source.model, "input": list(texts), "encoding_format": "float"}
            content = await self._client.whole("/embeddings", body)
            # Megabytes of numbers: not on the loop that all connections share.
            return Embedded(*await asyncio.to_thread(events.vectors, content, len(texts), MOST_DIMENSIONS))
        finally:
            self._embedding -= 1
            self._leave()

    def _enter(self) -> None:
        """Raises Busy and Gone."""
        if self.running >= self._most:
            raise Busy(f"{self._most} requests are at {self._name} already", "try again in a moment", cause="queue")
        self._loop = asyncio.get_running_loop()
        with self._asked:
            if self.closing:
                raise Gone
            self._idle.clear()
        self.load()
        self.last_used = time.monotonic()

    def _leave(self) -> None:
        self.last_used = time.monotonic()
        if not self.running:
            self._idle.set()

    def close_if_idle(self) -> bool:
        """See Backend."""
        with self._asked:
            if not self._idle.is_set() and not self.closing:
                return False
            self._closing.set()
            return True

    def close(self, wait: float = 30.0) -> None:
        """See Backend."""
        with self._asked:
            self._closing.set()
        if self._loop is not None and self._loop.is_running():
            self._idle.wait(wait)
            asyncio.run_coroutine_threadsafe(self._part(), self._loop).result(wait)
        self.since = None

    async def _part(self) -> None:
        for answer in list(self._tasks):
            answer.give_up(Busy("the server is about to end", "ask again when it is back", cause="draining"))
        await self._client.close()
