"""Ollama's API: /api/chat and /api/generate, whole and as lines of JSON, and what it tells of models.

https://github.com/ollama/ollama (docs/api.md, server/routes.go and api/types.go of 2026-08); what the official client reads
was looked up in it (ollama-python 0.6.3). An error is {"error": "text"}, in a stream a line of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import slmops
from slmops.core.errors import SlmopsError, SourceNotFound
from slmops.serve import rights
from slmops.serve.desk import Desk
from slmops.serve.faults import Problem, problem
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Call, Embedded, Ended, Logprob, Outcome, Piece, Thought
from slmops.serve.wire import _ollama_manage as manage
from slmops.serve.wire import _ollama_models as cards
from slmops.serve.wire._answers import Called, begin, merged, whole
from slmops.serve.wire._http import Stream, caller, operator, read
from slmops.serve.wire._ollama_bodies import FOREVER, NDJSON, Chat, Common, Embed, Generate, Show, fits, seconds, told
from slmops.serve.wire._openapi import reads

OWNS = ("/api/",)


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""

    @reads(None, "version")
    async def version(_: HttpRequest) -> Response:
        return JSONResponse({"version": slmops.__version__})

    @reads(None, "models")
    async def tags(http: HttpRequest) -> Response:
        return JSONResponse({"models": await asyncio.to_thread(cards.tags, desk.models, await desk.names(caller(http)))})

    @reads(None, "models")
    async def loaded(_: HttpRequest) -> Response:
        return JSONResponse({"models": await asyncio.to_thread(cards.loaded, desk.models)})

    @reads(Show, "details", "model_info", "capabilities")
    async def show(http: HttpRequest) -> Response:
        body = await read(http, Show)
        caller(http).check(body.meant)
        return JSONResponse(await asyncio.to_thread(cards.show, desk.models, body.meant))

    @reads(Chat, "model", "created_at", "message", "done", media=NDJSON)
    async def chat(http: HttpRequest) -> Response:
        return await _answered(http, desk, Chat, _Chat)

    @reads(Generate, "model", "created_at", "response", "done", media=NDJSON)
    async def generate(http: HttpRequest) -> Response:
        return await _answered(http, desk, Generate, _Text)

    @reads(Embed, "model", "embeddings")
    async def embed(http: HttpRequest) -> Response:
        body, vectors, count, began = await embedded(http)
        facts = {"total_duration": round((time.monotonic() - began) * 1e9), "load_duration": 0, "prompt_eval_count": count}
        return JSONResponse({"model": body.model, "embeddings": vectors, **facts})

    @reads(Embed, "embedding")
    async def embeddings(http: HttpRequest) -> Response:
        _, vectors, _, _ = await embedded(http)
        return JSONResponse({"embedding": vectors[0] if vectors else []})

    async def embedded(http: HttpRequest) -> tuple[Embed, list[list[float]], int, float]:
        """The body, a vector of length 1 for each text, their tokens, and when it began. Raises what `Desk.embed` raises."""
        body, began = await read(http, Embed), time.monotonic()
        keep = seconds(body.keep_alive)
        caller(http).check(body.model)
        if desk.models.at_hand(body.model) is None:
            await asyncio.to_thread(cards.find, desk.models, body.model)
        texts = body.texts()
        found = await desk.embed(body.model, texts, caller(http)) if texts else Embedded((), 0)
        await _keep(http, desk, body.model, keep)
        return body, [_cut(vector, body.dimensions) for vector in found.vectors], found.prompt_tokens, began

    return [
        Route("/api/embed", embed, methods=["POST"]),
        Route("/api/embeddings", embeddings, methods=["POST"]),
        Route("/api/version", version, methods=["GET", "HEAD"]),
        Route("/api/tags", tags, methods=["GET", "HEAD"]),
        Route("/api/ps", loaded, methods=["GET"]),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        *manage.routes(desk),
    ]


def error(problem: Problem, request: str = "") -> dict[str, Any]:
    """What is wrong."""
    return {"error": problem.said}


class _Chat:
    """How a conversation's answer is written."""

    @staticmethod
    def piece(text: str, calls: Sequence[Called] = (), thought: str = "") -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text} | ({"thinking": thought} if thought else {})
        if calls:
            message["tool_calls"] = [_call(one) for one in calls]
        return {"message": message}


class _Text:
    """How a continued prompt is written; it calls no functions."""

    @staticmethod
    def piece(text: str, calls: Sequence[Called] = (), thought: str = "") -> dict[str, Any]:
        return {"response": text} | ({"thinking": thought} if thought else {})


async def _answered(
    http: HttpRequest, desk: Desk, form: type[Chat] | type[Generate], writer: type[_Chat] | type[_Text]
) -> Response:
    body = await read(http, form)
    keep = seconds(body.keep_alive)
    caller(http).check(body.model)  # before anything tells whether it is there
    model = desk.models.at_hand(body.model)
    if model is None:  # found by reading: not on the loop that all connections share
        model = await asyncio.to_thread(cards.model, desk.models, body.model)
    if body.empty:
        return await _held(http, desk, keep, body, writer)
    fits(body.options, model.context)
    answers, began = await begin(http, desk, [body.request()])
    await _keep(http, desk, body.model, keep)
    if body.streamed:
        return Stream(answers, _streamed(answers[0], body.model, writer), NDJSON)
    (found,) = await whole(http, answers, began)
    written, ending = writer.piece(found.text, found.calls, found.thought), _ending(found.ended, answers[0].outcome)
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
                case Thought():
                    yield told({**_head(name), **writer.piece("", thought=event.text), "done": False})
                case None:  # clients read every line as JSON: an empty piece keeps the connection alive
                    yield told({**_head(name), **writer.piece(""), "done": False})
                case Ended():
                    yield told({**_head(name), **writer.piece(""), **_ending(event, answer.outcome)})
    except SlmopsError as fault:
        yield told(error(problem(fault)))


def _call(one: Called) -> dict[str, Any]:
    """Of arguments that broke off at a limit none are told: half of them would be others."""
    return {"id": one.call.id, "function": {"index": one.call.index, "name": one.call.name, "arguments": one.object or {}}}


async def _held(
    http: HttpRequest, desk: Desk, keep: float | None, body: Common, writer: type[_Chat] | type[_Text]
) -> Response:
    """Without a prompt, the model is loaded, as a question would load it; with keep_alive 0 an operator unloads it."""
    unload = keep == 0
    if unload:
        operator(http)
    await asyncio.to_thread(desk.models.unload if unload else desk.models.load, body.model)
    if not unload:
        await _keep(http, desk, body.model, keep)
    ending = {"done": True, "done_reason": "unload" if unload else "load"}
    return JSONResponse({**_head(body.model), **writer.piece(""), **ending})


async def _keep(http: HttpRequest, desk: Desk, name: str, keep: float | None) -> None:
    """How long the model stays from now on: for operators to say. Of others it is let pass, and changes no answer."""
    if keep is not None and caller(http).role in rights.MAY["operator"]:
        # Who removes a name meanwhile does not take the answer away.
        with contextlib.suppress(SourceNotFound):
            await asyncio.to_thread(desk.models.keep, name, None if keep == FOREVER else keep)


def _cut(vector: Sequence[float], dimensions: int | None) -> list[float]:
    """The first so many numbers, of length 1 again, as Ollama has it."""
    held = list(vector[: dimensions or None])
    length = math.sqrt(sum(one * one for one in held))
    return [one / length for one in held] if length else held


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
