"""Ollama's API: /api/chat and /api/generate, whole and as lines of JSON, and what it tells of models.

https://github.com/ollama/ollama (docs/api.md, server/routes.go and api/types.go of 2026-08); what the official client reads
was looked up in it (ollama-python 0.6.3). An error is {"error": "text"}, in a stream a line of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import slmops
from slmops.core.errors import SlmopsError
from slmops.serve import rights
from slmops.serve.desk import Desk
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Call, Ended, Logprob, Outcome, Piece
from slmops.serve.wire import _ollama_manage as manage
from slmops.serve.wire import _ollama_models as cards
from slmops.serve.wire._answers import Called, begin, merged, whole
from slmops.serve.wire._http import ClientLeft, Stream, caller, operator, status
from slmops.serve.wire._ollama_bodies import FOREVER, Chat, Common, Generate, Options, Show, told
from slmops.serve.wire._ollama_reply import BAD, NDJSON, failure, read


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""

    async def version(_: HttpRequest) -> Response:
        return JSONResponse({"version": slmops.__version__})

    async def tags(_: HttpRequest) -> Response:
        return JSONResponse({"models": await asyncio.to_thread(cards.tags, desk.models)})

    async def loaded(_: HttpRequest) -> Response:
        return JSONResponse({"models": await asyncio.to_thread(cards.loaded, desk.models)})

    async def show(http: HttpRequest) -> Response:
        try:
            body = await read(http, Show)
            return JSONResponse(await asyncio.to_thread(cards.show, desk.models, body.meant))
        except BAD as fault:
            return failure(fault)

    async def chat(http: HttpRequest) -> Response:
        return await _answered(http, desk, Chat, _Chat)

    async def generate(http: HttpRequest) -> Response:
        return await _answered(http, desk, Generate, _Text)

    return [
        Route("/api/version", version, methods=["GET", "HEAD"]),
        Route("/api/tags", tags, methods=["GET", "HEAD"]),
        Route("/api/ps", loaded, methods=["GET"]),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        *manage.routes(desk),
    ]


class _Chat:
    """How a conversation's answer is written."""

    @staticmethod
    def piece(text: str, calls: Sequence[Called] = ()) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [_call(one) for one in calls]
        return {"message": message}


class _Text:
    """How a continued prompt is written; it calls no functions."""

    @staticmethod
    def piece(text: str, calls: Sequence[Called] = ()) -> dict[str, Any]:
        return {"response": text}


async def _answered(
    http: HttpRequest, desk: Desk, form: type[Chat] | type[Generate], writer: type[_Chat] | type[_Text]
) -> Response:
    try:
        body = await read(http, form)
        keep = body.kept()
        await asyncio.to_thread(cards.find, desk.models, body.model)
        if body.empty:
            return await _held(http, desk, keep, body, writer)
        model = await asyncio.to_thread(desk.models.get, body.model)
        defaults = Options.model_validate(model.artifact.defaults.parameters)
        request = body.request(defaults)
        (body.options or defaults).fits(model.context)
        answers, began = await begin(http, desk, [request])
        if keep is not None and caller(http).role in rights.MAY["operator"]:
            await asyncio.to_thread(desk.models.keep, body.model, None if keep == FOREVER else keep)
        if body.streamed:
            return Stream(answers, _streamed(answers[0], body.model, writer), NDJSON)
        (found,) = await whole(http, answers, began)
    except ClientLeft:
        return Response(status_code=499)  # nobody reads it
    except BAD as fault:
        return failure(fault)
    written, ending = writer.piece(found.text, found.calls), _ending(found.ended, answers[0].outcome)
    return JSONResponse({**_head(body.model), **written, **ending, **_logprobs(found.logprobs)})


async def _streamed(answer: Answer, name: str, writer: type[_Chat] | type[_Text]) -> AsyncGenerator[str, None]:
    """Lines of JSON. A call is told once it is whole, as Ollama has it."""
    called: Called | None = None
    try:
        async for _, event in merged([answer]):
            if called is not None and not isinstance(event, Arguments | None):
                yield told({**_head(name), **writer.piece("", [called]), "done": False})
                called = None
            match event:
                case Call():
                    called = Called(event)
                case Arguments():
                    assert called is not None
                    called.arguments += event.text
                case Piece():
                    yield told({**_head(name), **writer.piece(event.text), "done": False, **_logprobs(event.logprobs)})
                case None:  # clients read every line as JSON: an empty piece keeps the connection alive
                    yield told({**_head(name), **writer.piece(""), "done": False})
                case Ended():
                    yield told({**_head(name), **writer.piece(""), **_ending(event, answer.outcome)})
    except SlmopsError as fault:
        yield told({"error": status(fault)[2]})


def _call(one: Called) -> dict[str, Any]:
    """Arguments that break off are what they were until then: a text under a key of its own would be no argument."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(one.arguments), dict):
            function = {"index": one.call.index, "name": one.call.name, "arguments": found}
            return {"id": one.call.id, "function": function}
    return {"id": one.call.id, "function": {"index": one.call.index, "name": one.call.name, "arguments": {}}}


async def _held(
    http: HttpRequest, desk: Desk, keep: float | None, body: Common, writer: type[_Chat] | type[_Text]
) -> Response:
    """Without a prompt, the model is loaded, or with keep_alive 0 unloaded."""
    operator(http)
    unload = keep == 0
    await asyncio.to_thread(desk.models.unload if unload else desk.models.load, body.model)
    if keep:
        await asyncio.to_thread(desk.models.keep, body.model, None if keep == FOREVER else keep)
    ending = {"done": True, "done_reason": "unload" if unload else "load"}
    return JSONResponse({**_head(body.model), **writer.piece(""), **ending})


def _head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _ending(event: Ended, outcome: Outcome) -> dict[str, Any]:
    """Durations are whole nanoseconds; what was loaded or waited for is in load_duration."""
    now = time.monotonic()
    began, ended = outcome.began or now, outcome.ended or now
    first = outcome.first or ended

    def span(start: float, end: float) -> int:
        return max(0, round((end - start) * 1e9))

    return {
        "done": True,
        "done_reason": "stop" if event.reason == "tool_calls" else event.reason,
        "total_duration": span(outcome.asked, ended),
        "load_duration": span(outcome.asked, began),
        "prompt_eval_count": outcome.prompt_tokens,
        "prompt_eval_duration": span(began, first),
        "eval_count": event.tokens,
        "eval_duration": span(first, ended),
    }


def _logprobs(found: Sequence[Logprob]) -> dict[str, Any]:
    def one(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "surrogateescape"))}

    lines = [{**one(each.text, each.logprob), "top_logprobs": [one(*other) for other in each.top]} for each in found]
    return {"logprobs": lines} if lines else {}
