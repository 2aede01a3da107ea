"""The server from its first moment: health is answered while models, wire formats and what they import are still being read.

What else is asked meanwhile waits for the whole application, which is then the only one that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from slmops.serve import health
from slmops.serve.access import Access, Guard
from slmops.serve.faults import Problem
from slmops.serve.logs import Trails

Whole = Starlette
"""The application that is waited for (app.build)."""


class _Nothing:
    """What health is asked of before there are models."""

    draining = False

    def missing(self) -> list[str]:
        return ["everything"]


class Starting:
    """An ASGI application in front of one that takes a while to be made."""

    def __init__(self, access: Access, load: Callable[[], Whole], failed: Callable[[BaseException], None]) -> None:
        """load: makes the application, in a thread that dies with the process. failed: told, on the loop, what it raised."""
        self._load, self._failed = load, failed
        self._whole: Whole | None = None
        self._ended = asyncio.Event()
        routes = health.routes(_Nothing())
        around = [Middleware(Trails), Middleware(Guard, access=access, routes=routes, error=_said)]
        self._first = Starlette(
            routes=routes, middleware=around, lifespan=self._life, exception_handlers={404: self._absent}
        )
        self._first.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._whole is None and scope["type"] == "http" and not scope["path"].startswith("/health/"):
            await self._ended.wait()
        await (self._whole or self._first)(scope, receive, send)

    async def _absent(self, _: Request, fault: Exception) -> Response:
        said = {"message": "the server is starting, or could not", "type": "server_error", "code": "starting"}
        return JSONResponse({"error": said}, 503, {"retry-after": "1"})

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as held:
            task = asyncio.create_task(self._begin(held))
            try:
                yield
            finally:
                task.cancel()

    async def _begin(self, held: contextlib.AsyncExitStack) -> None:
        try:
            whole = await _apart(self._load)
            await held.enter_async_context(whole.router.lifespan_context(whole))
            self._whole = whole
        except Exception as fault:
            self._failed(fault)
        finally:
            self._ended.set()


def _said(_: Scope, problem: Problem) -> object:
    """What is wrong, before there are formats."""
    return {"error": {"message": problem.said, "type": "invalid_request_error", "code": problem.code}}


async def _apart(work: Callable[[], Whole]) -> Whole:
    """In a thread of its own, which nobody waits for at the end: opening a model may read for long."""
    loop = asyncio.get_running_loop()
    made = loop.create_future()

    def told(whole: Whole | None, fault: BaseException | None) -> None:
        if made.done():
            return
        if fault is not None:
            made.set_exception(fault)
        else:
            made.set_result(whole)

    def run() -> None:
        whole, wrong = None, None
        try:
            whole = work()
        except BaseException as fault:
            wrong = fault
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(told, whole, wrong)

    threading.Thread(target=run, name="start", daemon=True).start()
    found: Whole = await made
    return found
