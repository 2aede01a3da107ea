"""The ASGI application: health, and the routes of every wire format behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core import plugins
from slmops.serve.access import Access, Guard
from slmops.serve.desk import Desk
from slmops.serve.named import Named
from slmops.serve.wire._openai_faults import error
from slmops.serve.wire._openapi import document

ROOM = "serve.wire"


def build(desk: Desk, access: Access) -> Starlette:
    """The application over the desk's models. Closing it finishes what is being computed and ends the workers."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def loaded(_: Request) -> Response:
        return JSONResponse([{**vars(one)} for one in desk.models.states()])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(desk.models.close)

    found = [
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
        Route("/slmops/models", loaded, methods=["GET"]),
    ]
    for name in plugins.names(ROOM):
        found += plugins.load(ROOM, name).routes(desk)

    async def unrouted(_: Request, fault: Exception) -> Response:
        assert isinstance(fault, HTTPException)
        answer = error(fault.status_code, fault.detail, "no_such_route")
        answer.headers.update(fault.headers or {})
        return answer

    async def described(_: Request) -> Response:
        return JSONResponse(document(found))

    found.append(Route("/openapi.json", described, methods=["GET"]))
    return Starlette(
        routes=found,
        exception_handlers={HTTPException: unrouted},
        middleware=[Middleware(Named), Middleware(Guard, access=access)],
        lifespan=lifespan,
    )
