"""What orchestrators ask: is it alive, has it started, may it be sent requests. Without a key, so without a word on models;
off the path of the engines, which compute in other processes."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Loads(Protocol):
    """What is asked of the models."""

    draining: bool

    def missing(self) -> list[str]:
        """Pinned names that nothing loaded answers to yet."""


def routes(models: Loads) -> list[Route]:
    """live: the loop answers. startup: every pinned model has been loaded once. ready: all are, and the end is not near."""
    started = False

    def told(well: bool, word: str) -> Response:
        # Starting again helps nobody: 503 says that it is to be asked again.
        return JSONResponse({"status": word}, 200 if well else 503, {"cache-control": "no-store"})

    async def live(_: Request) -> Response:
        return told(True, "live")

    async def startup(_: Request) -> Response:
        nonlocal started
        started = started or not models.missing()
        return told(started, "started" if started else "loading")

    async def ready(_: Request) -> Response:
        if models.draining:
            return told(False, "draining")
        loaded = not models.missing()
        return told(loaded, "ready" if loaded else "loading")

    return [
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
        Route("/health/startup", startup, methods=["GET"]),
    ]
