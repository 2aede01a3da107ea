"""Ollama's API: /api/chat, /api/generate, /api/tags, /api/show, /api/ps, /api/version, whole and as lines of JSON.

https://github.com/ollama/ollama (docs/api.md, server/routes.go and api/types.go of 2026-08); what the official client reads
was looked up in it (ollama-python 0.6.3). An error is {"error": "text"}, in a stream a line of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import slmops
from slmops.core.errors import SlmopsError
from slmops.serve.access import TooLarge
from slmops.serve.desk import Desk
from slmops.serve.model import Answer
from slmops.serve.request import Began, Ended, Logprob, Outcome, Piece
from slmops.serve.wire import _ollama_models as cards
from slmops.serve.wire._http import QUIET, ClientLeft, Stream, caller, first_fault, following, headers, status
from slmops.serve.wire._ollama_bodies import Chat, Common, Generate, Options, Show, told

NDJSON = "application/x-ndjson"
Form = TypeVar("Form", bound=BaseModel)


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
        except (TooLarge, ValidationError, SlmopsError) as fault:
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
    ]


class _Chat:
    """How a conversation's answer is written."""

    @staticmethod
    def piece(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}


class _Text:
    """How a continued prompt is written."""

    @staticmethod
    def piece(text: str) -> dict[str, Any]:
        return {"response": text}


async def _answered(
    http: HttpRequest, desk: Desk, form: type[Chat] | type[Generate], writer: type[_Chat] | type[_Text]
) -> Response:
    try:
        body = await read(http, form)
        name, keep = cards.named(desk.models, body.model), body.kept()
        model = await asyncio.to_thread(desk.models.get, name)
        if body.empty:
            return await _held(desk, name, keep, body, writer)
        defaults = Options.model_validate(model.artifact.defaults.parameters)
        request = body.request(defaults)
        (body.options or defaults).fits(model.context)
        answer = await desk.ask(dataclasses.replace(request, model=name), caller(http))
    except (TooLarge, ValidationError, SlmopsError) as fault:
        return failure(fault)
    try:
        # Before anything is sent: what is wrong with the prompt is a status of its own, not a line of a stream.
        await following(http, answer)
        if body.streamed:
            return Stream(answer, _streamed(answer, body.model, writer), NDJSON)
        pieces: list[Piece] = []
        while isinstance(event := await following(http, answer), Piece):
            pieces.append(event)
    except ClientLeft:
        answer.cancel()
        return Response(status_code=499)  # nobody reads it
    except SlmopsError as fault:
        return failure(fault)
    except BaseException:
        answer.cancel()
        raise
    assert isinstance(event, Ended)
    whole = writer.piece("".join(piece.text for piece in pieces))
    shown = _logprobs([one for piece in pieces for one in piece.logprobs])
    return JSONResponse({**_head(body.model), **whole, **_ending(event, answer.outcome), **shown})


async def _streamed(answer: Answer, name: str, writer: type[_Chat] | type[_Text]) -> AsyncGenerator[str, None]:
    try:
        while not isinstance(event := await answer.next(QUIET), Ended):
            # Clients read every line as JSON: an empty piece keeps the connection alive.
            text, shown = (event.text, event.logprobs) if isinstance(event, Piece) else ("", ())
            if event is None or not isinstance(event, Began):
                yield told({**_head(name), **writer.piece(text), "done": False, **_logprobs(shown)})
        yield told({**_head(name), **writer.piece(""), **_ending(event, answer.outcome)})
    except SlmopsError as fault:
        yield told({"error": status(fault)[2]})


async def _held(desk: Desk, name: str, keep: float | None, body: Common, writer: type[_Chat] | type[_Text]) -> Response:
    """Without a prompt, the model is loaded, or with keep_alive 0 unloaded."""
    unload = keep == 0
    await asyncio.to_thread(desk.models.unload if unload else desk.models.load, name)
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
        "done_reason": event.reason,
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


async def read(http: HttpRequest, form: type[Form]) -> Form:
    """The body of a request. Raises TooLarge, ValidationError."""
    return form.model_validate_json(await http.body())


def failure(fault: SlmopsError | ValidationError | TooLarge) -> Response:
    """An error in this format."""
    if isinstance(fault, TooLarge):
        return JSONResponse({"error": "the request is too large"}, 413)
    if isinstance(fault, ValidationError):
        return JSONResponse({"error": first_fault(fault)[1]}, 400)
    code, _, said = status(fault)
    return JSONResponse({"error": said}, code, headers(fault))
