"""The ASGI application: health, and the routes of every wire format behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core import plugins
from slmops.serve import page
from slmops.serve.access import CALLER, Access, Guard
from slmops.serve.desk import Desk
from slmops.serve.sessions import Sessions

ROOM = "serve.wire"


def build(desk: Desk, access: Access) -> Starlette:
    """The application over the desk's models. Closing it finishes what is being computed and ends the workers."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def loaded(_: Request) -> Response:
        return JSONResponse([{**vars(one)} for one in desk.models.states()])

    sessions = Sessions()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(desk.models.close)

    found = [
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
        Route("/slmops/models", loaded, methods=["GET"]),
        *page.routes(),
        *sessions.routes(lambda http: http.scope[CALLER]),
    ]
    for name in plugins.names(ROOM):
        found += plugins.load(ROOM, name).routes(desk)
    return Starlette(routes=found, middleware=[Middleware(Guard, access=access, sessions=sessions)], lifespan=lifespan)
