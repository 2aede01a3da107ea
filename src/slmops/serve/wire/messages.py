"""Anthropic's API: /v1/messages, whole and as server-sent events, and /v1/messages/count_tokens.

https://docs.anthropic.com/en/api/messages; what the official client reads was looked up in it (anthropic 2.12). What cannot
be done is refused by name (images, documents, tools of the server's own).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core.errors import SlmopsError
from slmops.serve.desk import Desk
from slmops.serve.faults import Problem, problem
from slmops.serve.logs import TRAIL
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Began, Call, Ended, Piece, Thought
from slmops.serve.wire._answers import Called, Whole, begin, merged, whole
from slmops.serve.wire._http import SSE, Stream, caller, read
from slmops.serve.wire._messages_body import Create, Prompt
from slmops.serve.wire._openapi import reads

OWNS = ("/v1/messages",)
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""

    @reads(Create, "id", "type", "role", "model", "content", "stop_reason", "usage", media=SSE)
    async def create(http: HttpRequest) -> Response:
        return await _answered(http, desk)

    @reads(Prompt, "input_tokens")
    async def count(http: HttpRequest) -> Response:
        return await _counted(http, desk)

    return [
        Route("/v1/messages", create, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]


async def _answered(http: HttpRequest, desk: Desk) -> Response:
    body = await read(http, Create)
    answers, (began,) = await begin(http, desk, [body.asked()])
    head = {"id": "msg_" + secrets.token_hex(12), "type": "message", "role": "assistant", "model": body.model}
    if body.stream:
        return Stream(answers, _events(head, answers[0], began, http.scope[TRAIL].id), SSE)
    (one,) = await whole(http, answers, [began])
    usage = {**_read(one.began), "output_tokens": one.ended.tokens}
    return JSONResponse({**head, "content": _content(one), **_reason(one.ended), "usage": usage})


async def _counted(http: HttpRequest, desk: Desk) -> Response:
    request = (await read(http, Prompt)).request()
    return JSONResponse({"input_tokens": await desk.count(request, caller(http))})


def _content(one: Whole) -> list[dict[str, Any]]:
    said = [{"type": "text", "text": one.text}] if one.text or not one.calls else []
    uses = [
        {"type": "tool_use", "id": _identifier(called.call), "name": called.call.name, "input": _input(called)}
        for called in one.calls
    ]
    thought = [{"type": "thinking", "thinking": one.thought, "signature": ""}] if one.thought else []
    return thought + said + uses


def _identifier(call: Call) -> str:
    return f"toolu_{call.id}"


def _input(called: Called) -> dict[str, Any]:
    """The arguments as an object, which this format has; what is cut off or no object is given as it came."""
    found = called.object
    return found if found is not None else {"arguments": called.arguments}


def _read(began: Began) -> dict[str, int]:
    fresh = began.prompt_tokens - began.cached_tokens
    return {"input_tokens": fresh, "cache_read_input_tokens": began.cached_tokens, "cache_creation_input_tokens": 0}


def _reason(ended: Ended) -> dict[str, Any]:
    return {
        "stop_reason": REASONS[ended.reason] if ended.stop is None else "stop_sequence",
        "stop_sequence": ended.stop,
    }


async def _events(head: dict[str, Any], answer: Answer, began: Began, name: str) -> AsyncGenerator[str, None]:
    """Server-sent events: blocks of text and of calls, each begun, filled and stopped in turn."""
    start = {
        **head,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**_read(began), "output_tokens": 0},
    }
    yield _event({"type": "message_start", "message": start})
    index, inside = -1, ""
    try:
        async for _, event in merged([answer]):
            match event:
                case None:
                    yield _event({"type": "ping"})
                case Piece():
                    if inside != "text":
                        if inside:
                            yield _event({"type": "content_block_stop", "index": index})
                        index, inside = index + 1, "text"
                        yield _block(index, {"type": "text", "text": ""})
                    yield _delta(index, {"type": "text_delta", "text": event.text})
                case Thought():
                    if inside != "thought":
                        if inside:
                            yield _event({"type": "content_block_stop", "index": index})
                        index, inside = index + 1, "thought"
                        yield _block(index, {"type": "thinking", "thinking": "", "signature": ""})
                    yield _delta(index, {"type": "thinking_delta", "thinking": event.text})
                case Call():
                    if inside:
                        yield _event({"type": "content_block_stop", "index": index})
                    index, inside = index + 1, "call"
                    yield _block(index, {"type": "tool_use", "id": _identifier(event), "name": event.name, "input": {}})
                case Arguments():
                    yield _delta(index, {"type": "input_json_delta", "partial_json": event.text})
                case Ended():
                    if inside:
                        yield _event({"type": "content_block_stop", "index": index})
                    usage = {**_read(answer.outcome.prompt), "output_tokens": event.tokens}
                    yield _event({"type": "message_delta", "delta": _reason(event), "usage": usage})
                    yield _event({"type": "message_stop"})
    except SlmopsError as fault:
        yield _event(error(problem(fault), name))


def _block(index: int, content: dict[str, Any]) -> str:
    return _event({"type": "content_block_start", "index": index, "content_block": content})


def _delta(index: int, delta: dict[str, Any]) -> str:
    return _event({"type": "content_block_delta", "index": index, "delta": delta})


def _event(value: dict[str, Any]) -> str:
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n"


def error(problem: Problem, request: str) -> dict[str, Any]:
    """What is wrong."""
    kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": problem.said}, "request_id": request}
