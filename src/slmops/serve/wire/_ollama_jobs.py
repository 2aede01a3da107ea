"""Long work that Ollama's clients ask for: in threads, told about as lines of NDJSON."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from slmops.core.errors import Busy, SlmopsError
from slmops.core.watch import Watch
from slmops.serve.faults import problem
from slmops.serve.wire._ollama_bodies import NDJSON, told

MOST_JOBS = 4
"""Pulls, pushes and conversions at once."""
TICK = 0.2
"""Seconds between two lines of progress."""
QUIET = 15.0
"""Seconds after which a line is said again: proxies close a connection on which nothing comes."""

Work = Callable[[Watch], str]
"""The digest of what came of it, or some of them."""


class Jobs:
    """Long work in threads, told about as lines."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST_JOBS)

    async def answer(self, work: Work, stream: bool | None, facts: dict[str, str]) -> Response:
        """facts: for the audit log, which is told what came of it too. Raises Busy; what the work raises is an answer, or a
        line."""
        if not self._free.acquire(blocking=False):
            raise Busy(f"{MOST_JOBS} pulls or conversions are at work already", "try again when one has ended", 10.0)
        job = _Job(work, self._free, facts)
        if stream is not False:
            return StreamingResponse(job.lines(), media_type=NDJSON, headers={"cache-control": "no-store"})
        await asyncio.to_thread(job.wait)
        if job.fault is not None:
            raise job.fault
        return JSONResponse({"status": "success"})


class Left(Exception):
    """Nobody waits for the work any more."""


class _Job:
    def __init__(self, work: Work, free: threading.BoundedSemaphore, facts: dict[str, str]) -> None:
        self._facts = facts
        self.fault: SlmopsError | None = None
        self._said, self._done, self._total, self._left = "", 0, 0, False
        self._over = deque[str]()
        """How steps ended, that nobody has been told yet: one may begin and end between two looks."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, args=(work, free), name="job", daemon=True)
        self._thread.start()

    def _run(self, work: Work, free: threading.BoundedSemaphore) -> None:
        try:
            self._facts["digest"] = work(Watch(self._say, self._begin, self._advance))
            self._facts["outcome"] = "done"
        except SlmopsError as error:
            self.fault, self._facts["outcome"] = error, type(error).__name__
        except Left:
            self._facts["outcome"] = "cancelled"
        except Exception as error:  # the client is told that it failed, whatever it was
            self._facts["outcome"] = type(error).__name__
            self.fault = SlmopsError(f"the job failed: {type(error).__name__}")
            raise
        finally:
            free.release()

    def _say(self, text: str) -> None:
        if self._total:
            self._over.append(self._line())
        self._said = text[:200]
        self._total = self._done = 0

    def _begin(self, total: int) -> None:
        with self._lock:
            self._total, self._done = total, 0

    def _advance(self, count: int) -> None:
        if self._left:
            raise Left
        with self._lock:
            self._done += count

    def _line(self) -> str:
        line: dict[str, Any] = {"status": self._said or "working"}
        if self._total:
            line |= {"total": self._total, "completed": min(self._done, self._total)}
        return told(line)

    def wait(self) -> None:
        self._thread.join()

    async def lines(self) -> AsyncGenerator[str, None]:
        """Progress as it changes, then success or an error."""
        shown, quiet, going = "", time.monotonic(), True
        try:
            while going:
                going = self._thread.is_alive()
                over = [self._over.popleft() for _ in range(len(self._over))]
                for text in (*over, self._line()):
                    if text != shown or time.monotonic() - quiet > QUIET:
                        shown, quiet = text, time.monotonic()
                        yield text
                if going:
                    await asyncio.to_thread(self._thread.join, TICK)
            yield told({"error": problem(self.fault).said} if self.fault is not None else {"status": "success"})
        finally:
            self._left = True
