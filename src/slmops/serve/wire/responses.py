"""OpenAI's /v1/responses: whole and as events, gone on with by `previous_response_id`, read and deleted by id.

https://platform.openai.com/docs/api-reference/responses; the order of events is what the official client's `.stream()` wants
(openai 3.5). What cannot be done is refused by name: files, images, tools of the server's own, reasoning, work in the
background, conversations.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core.errors import SlmopsError
from slmops.serve.desk import Desk
from slmops.serve.faults import problem
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Call, Ended, Event, Outcome, Piece
from slmops.serve.wire._answers import begin, merged
from slmops.serve.wire._faults import ClientLeft
from slmops.serve.wire._http import SSE, Stream, caller, following, read
from slmops.serve.wire._openai_write import error as error
from slmops.serve.wire._openai_write import event as event_text
from slmops.serve.wire._openapi import reads
from slmops.serve.wire._responses_body import Create, answer
from slmops.serve.wire._responses_store import Store

OWNS = ("/v1/responses",)
KEYS = ("id", "object", "created_at", "model", "output", "status")


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""
    store = Store()

    @reads(Create, *KEYS, media=SSE)
    async def create(http: HttpRequest) -> Response:
        return await _answered(http, desk, store)

    @reads(None, "id", "object")
    async def one(http: HttpRequest) -> Response:
        identifier, owner = http.path_params["id"], caller(http).name
        if http.method != "DELETE":
            return JSONResponse(store.get(identifier, owner).response)
        store.drop(identifier, owner)
        return JSONResponse({"id": identifier, "object": "response", "deleted": True})

    @reads(None, "object", "data", "first_id", "last_id", "has_more")
    async def items(http: HttpRequest) -> Response:
        found = store.get(http.path_params["id"], caller(http).name).items
        ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return JSONResponse({"object": "list", "data": list(found), **ends, "has_more": False})

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{id}", one, methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", items, methods=["GET"]),
    ]


async def _answered(http: HttpRequest, desk: Desk, store: Store) -> Response:
    body = await read(http, Create)
    owner = caller(http).name
    before = store.get(body.previous_response_id, owner).messages if body.previous_response_id is not None else ()
    request, messages = body.request(before)

    def keep(response: dict[str, Any]) -> None:
        if body.store is not False:
            asked = [{**one.model_dump(exclude_none=True), "id": one.id or _identifier("item")} for one in body.items()]
            store.put(owner, response, asked, [*messages, *answer(response["output"])])

    (answers, _) = await begin(http, desk, [request])
    head = {"id": _identifier("resp"), "object": "response", "created_at": int(time.time()), **body.told()}
    writer = _Writer(head, answers[0].outcome, keep)
    if body.stream:
        return Stream(answers, _events(writer, answers[0]), SSE)
    try:
        while not writer.ended:
            writer.take(await following(http, answers[0]))
    except (SlmopsError, ClientLeft):
        answers[0].cancel()
        raise
    return JSONResponse(writer.response)


async def _events(writer: _Writer, one: Answer) -> AsyncGenerator[str, None]:
    try:
        for told in writer.begin():
            yield told
        async for _, event in merged([one]):
            if event is None:
                yield ": still at work\n\n"
            else:
                for told in writer.take(event):
                    yield told
    except SlmopsError as fault:
        yield writer.failed(fault)


class _Writer:
    """A response as it grows: its items, and the events that tell of them."""

    def __init__(self, head: dict[str, Any], outcome: Outcome, keep: Callable[[dict[str, Any]], None]) -> None:
        self.response: dict[str, Any] = {
            **head, "status": "in_progress", "error": None, "incomplete_details": None, "output": [], "usage": None,
        }  # fmt: skip
        self.ended = False
        self._output: list[dict[str, Any]] = self.response["output"]
        self._outcome, self._keep, self._count = outcome, keep, 0

    def begin(self) -> list[str]:
        return [self._event(f"response.{kind}", response=self.response) for kind in ("created", "in_progress")]

    def take(self, event: Event) -> list[str]:
        """The events of what came."""
        match event:
            case Piece():
                return self._text(event.text)
            case Call():
                told = self._stop("completed")
                call = {"type": "function_call", "id": _identifier("fc"), "call_id": f"call_{event.id}"}
                return [*told, *self._start({**call, "name": event.name, "arguments": "", "status": "in_progress"})]
            case Arguments():
                item = self._output[-1]
                item["arguments"] += event.text
                return [self._of_item("response.function_call_arguments.delta", delta=event.text)]
            case Ended():
                return self._end(event)
        return []

    def failed(self, fault: SlmopsError) -> str:
        """In the middle of it. The client raises what stands under `error`."""
        found = problem(fault)
        return self._event("error", **error(found), code=found.code, message=found.said, param=None)

    def _text(self, text: str) -> list[str]:
        told: list[str] = []
        if not self._output or self._output[-1]["type"] != "message":
            told += self._stop("completed")
            item: dict[str, Any] = {
                "type": "message",
                "id": _identifier("msg"),
                "role": "assistant",
                "content": [],
                "status": "in_progress",
            }
            told += self._start(item)
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            # The event tells of an empty part; the item's own grows.
            told.append(self._of_item("response.content_part.added", content_index=0, part=part))
            item["content"] = [part]
        self._output[-1]["content"][0]["text"] += text
        told.append(self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=[]))
        return told

    def _start(self, item: dict[str, Any]) -> list[str]:
        self._output.append(item)
        return [self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)]

    def _stop(self, status: str) -> list[str]:
        """The latest item is whole, or cut off."""
        if not self._output:
            return []
        item = self._output[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            told = [
                self._of_item("response.output_text.done", content_index=0, text=part["text"], logprobs=[]),
                self._of_item("response.content_part.done", content_index=0, part=part),
            ]
        else:
            done = {"arguments": item["arguments"], "name": item["name"]}
            told = [self._of_item("response.function_call_arguments.done", **done)]
        return [*told, self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)]

    def _end(self, event: Ended) -> list[str]:
        status = "incomplete" if event.reason == "length" else "completed"
        told = self._text("") if not self._output else []
        told += self._stop(status)
        read = self._outcome.prompt
        self.response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "completed_at": int(time.time()),
            "usage": {
                "input_tokens": read.prompt_tokens,
                "input_tokens_details": {"cached_tokens": read.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": event.tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read.prompt_tokens + event.tokens,
            },
        }
        self.ended = True
        self._keep(self.response)
        return [*told, self._event(f"response.{status}", response=self.response)]

    def _of_item(self, kind: str, **facts: Any) -> str:
        return self._event(kind, item_id=self._output[-1]["id"], output_index=len(self._output) - 1, **facts)

    def _event(self, kind: str, **facts: Any) -> str:
        number, self._count = self._count, self._count + 1
        return f"event: {kind}\n" + event_text({"type": kind, "sequence_number": number, **facts})


def _identifier(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
