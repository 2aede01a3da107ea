"""Foundry Local's own routes: /status, /models/loaded, /models/load/NAME, /models/unload/NAME; inference is openai.py's.

https://github.com/microsoft/Foundry-Local (sdk_v2/cpp/src/service of 2026-07), and the same under /openai as its 0.x had
them (sdk_legacy). Foundry changes state on GET, without asking who: here that takes an operator (rights.py), and no page
of another site may.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.serve.desk import Desk
from slmops.serve.faults import Problem
from slmops.serve.wire import _openai_write as openai
from slmops.serve.wire._http import caller, noted
from slmops.serve.wire._openapi import reads

OWNS = ("/status", "/models/", "/openai/")


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""
    models = desk.models

    @reads(None, "modelDirPath", "endpoints", "pid")
    async def state(http: HttpRequest) -> Response:
        # Where models lie on the server's disk is nothing that clients need: an empty path is a string all the same.
        place = {"modelCachePath": "", "modelDirPath": ""}
        return JSONResponse({**place, "endpoints": [str(http.base_url).rstrip("/")], "pid": os.getpid()})

    @reads(None)
    async def known(http: HttpRequest) -> Response:
        return JSONResponse(await desk.names(caller(http)))

    @reads(None)
    async def loaded(http: HttpRequest) -> Response:
        states, own = await asyncio.to_thread(models.states), caller(http)
        return JSONResponse([one.name for one in states if one.loaded and own.uses(one.name)])

    async def named(http: HttpRequest) -> str:
        """The name in the path, told to the audit log. Raises PolicyRefused, SourceNotFound."""
        name = str(http.path_params["name"])
        facts = noted(http, name)
        caller(http).check(name)
        facts["digest"] = (await asyncio.to_thread(models.find, name)).digest
        return name

    @reads(None, "status")
    async def load(http: HttpRequest) -> Response:
        fresh = await asyncio.to_thread(models.load, await named(http))
        return JSONResponse({"status": "loaded" if fresh else "already_loaded"})

    @reads(None, "status")
    async def unload(http: HttpRequest) -> Response:
        there = await asyncio.to_thread(models.unload, await named(http))
        return JSONResponse({"status": "unloaded" if there else "not_loaded"})

    both = ["GET", "POST"]
    return [
        Route("/status", state, methods=["GET"]),
        Route("/models/loaded", loaded, methods=["GET"]),
        Route("/models/load/{name:path}", load, methods=both),
        Route("/models/unload/{name:path}", unload, methods=both),
        Route("/openai/status", state, methods=["GET"]),
        Route("/openai/models", known, methods=["GET"]),
        Route("/openai/loadedmodels", loaded, methods=["GET"]),
        Route("/openai/load/{name:path}", load, methods=both),
        Route("/openai/unload/{name:path}", unload, methods=both),
    ]


def error(problem: Problem, request: str) -> dict[str, Any]:
    """What is wrong: as OpenAI has it, without a word for it."""
    return {"error": {**openai.error(problem)["error"], "param": None, "code": None}}
