"""The ASGI application: health, and the routes of every wire format behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core import plugins
from slmops.serve import health, page, rights, wire
from slmops.serve.access import CALLER, Access, Guard
from slmops.serve.desk import Desk
from slmops.serve.logs import Trails
from slmops.serve.metrics import Metrics
from slmops.serve.request import Caller
from slmops.serve.wire._faults import HANDLERS
from slmops.serve.wire._openapi import document

CORS: dict[str, Any] = {
    "allow_methods": ("GET", "HEAD", "POST", "DELETE"),
    "allow_headers": ("*",),  # every client has its own, and none of them decides anything
    "allow_private_network": True,
    "expose_headers": ("x-request-id", "retry-after"),
}
"""For the pages of --cors alone; cookies are never taken from them."""


def build(desk: Desk, access: Access, metrics: Metrics) -> Starlette:
    """The application over the desk's models. Closing it finishes what is being computed and ends the workers."""

    async def loaded(_: Request) -> Response:
        return JSONResponse([vars(one) for one in await anyio.to_thread.run_sync(desk.models.states)])

    def sees(caller: Caller) -> list[str]:
        there = {route.path for route in found}
        return [path for path in page.SHOWN if path in there and caller.role in rights.MAY[rights.least("GET", path)]]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(desk.models.start)
        yield
        await anyio.to_thread.run_sync(desk.models.close)

    async def measured(_: Request) -> Response:
        page, kind = await anyio.to_thread.run_sync(metrics.page)
        return Response(page, media_type=kind)

    formats = [plugins.load(wire.ROOM, name) for name in plugins.names(wire.ROOM)]
    formats.sort(key=lambda one: -getattr(one, "PREFERENCE", 0))  # routes are looked at one by one
    found = [
        *health.routes(desk.models),
        *(route for one in formats for route in one.routes(desk)),
        Route("/slmops/models", loaded, methods=["GET"]),
        Route("/metrics", measured, methods=["GET"]),
        *page.routes(),
        *access.sessions.routes(lambda http: http.scope[CALLER], sees),
    ]

    async def described(_: Request) -> Response:
        return JSONResponse(document(found))

    found.append(Route("/openapi.json", described, methods=["GET"]))
    around = [Middleware(Trails, told=metrics.answered), Middleware(Guard, access=access, routes=found, error=wire.error)]
    if access.origins:
        # In front of the guard, so that pages can read its refusals too.
        around.insert(1, Middleware(CORSMiddleware, **CORS, allow_origins=sorted(access.origins)))
    made = Starlette(routes=found, exception_handlers=HANDLERS, middleware=around, lifespan=lifespan)
    made.router.redirect_slashes = False  # a path with a slash more is another path
    return made
