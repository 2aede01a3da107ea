"""OpenAI's API: /v1/models, /v1/chat/completions, /v1/completions, whole and as server-sent events.

https://platform.openai.com/docs/api-reference; what the official client reads was looked up in it (openai 3.5). What cannot
be done yet is refused by name (tools, JSON schemas, log probabilities, several answers); what changes no answer is let pass.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core.errors import SlmopsError, SourceNotFound, UsageError
from slmops.engines import Sampling
from slmops.serve.desk import Desk
from slmops.serve.model import Answer
from slmops.serve.models import Models
from slmops.serve.request import Began, Ended, Piece, Request
from slmops.serve.wire._http import QUIET, Body, ClientLeft, Stream, caller, first_fault, following, headers, status

MOST_TOKENS = 1 << 17


class Part(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=64)]
    name: Annotated[str | None, Field(max_length=64)] = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it; `developer` is OpenAI's newer word for `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class Common(Body):
    model: Annotated[str, Field(min_length=1, max_length=300)]
    max_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    """Not OpenAI's; 0: off."""
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None
    stop: Annotated[str, Field(max_length=256)] | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    user: Annotated[str | None, Field(max_length=512)] = None
    metadata: Annotated[dict[str, str] | None, Field(max_length=16)] = None
    store: bool | None = None
    service_tier: Annotated[str | None, Field(max_length=64)] = None
    safety_identifier: Annotated[str | None, Field(max_length=512)] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=512)] = None

    def sampling(self, most: int | None) -> Sampling:
        return Sampling(
            max_tokens=most or MOST_TOKENS,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            seed=secrets.randbits(31) if self.seed is None else self.seed & 0x7FFF_FFFF,
        )

    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(not 0 < len(one) <= 256 for one in found):
            raise UsageError("a stop string has 1 to 256 letters")
        return tuple(found)


class Chat(Common):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    parallel_tool_calls: bool | None = None

    def request(self) -> Request:
        messages = tuple(one.plain() for one in self.messages)
        most = self.max_completion_tokens or self.max_tokens
        return Request(self.model, messages, None, self.sampling(most), self.stops())


class Completion(Common):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None

    def request(self) -> Request:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        # 16 is OpenAI's own default here.
        return Request(self.model, (), text, self.sampling(self.max_tokens or 16), self.stops())


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""
    models = desk.models

    async def listed(http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [_card(models, name) for name in desk.names(caller(http))]})

    async def one(http: HttpRequest) -> Response:
        name, names = http.path_params["name"], desk.names(caller(http))
        if name not in names:
            return failure(SourceNotFound(f"no model {name[:100]!r} is served here", f"one of: {', '.join(names)}"))
        return JSONResponse(_card(models, name))

    async def chat(http: HttpRequest) -> Response:
        return await _answered(http, desk, Chat, _Chat)

    async def completion(http: HttpRequest) -> Response:
        return await _answered(http, desk, Completion, _Text)

    return [
        Route("/v1/models", listed, methods=["GET"]),
        Route("/v1/models/{name:path}", one, methods=["GET"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
    ]


def _card(models: Models, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(models.began), "owned_by": "slmops"}


class _Chat:
    """How a conversation's answer is written."""

    prefix, whole, chunk = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    @staticmethod
    def answer(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    @staticmethod
    def opening() -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}}

    @staticmethod
    def piece(text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


class _Text:
    """How a continued text is written."""

    prefix, whole, chunk = "cmpl-", "text_completion", "text_completion"

    @staticmethod
    def answer(text: str) -> dict[str, Any]:
        return {"text": text}

    @staticmethod
    def opening() -> dict[str, Any] | None:
        return None

    @staticmethod
    def piece(text: str) -> dict[str, Any]:
        return {"text": text}


async def _answered(
    http: HttpRequest, desk: Desk, form: type[Chat] | type[Completion], writer: type[_Chat] | type[_Text]
) -> Response:
    try:
        body = form.model_validate_json(await http.body())
        request = body.request()
        answer = await desk.ask(request, caller(http))
    except ValidationError as fault:
        return invalid(fault)
    except SlmopsError as fault:
        return failure(fault)
    head = {"id": writer.prefix + secrets.token_hex(12), "created": int(time.time()), "model": request.model}
    try:
        # Before anything is sent: what is wrong with the prompt is a status of its own, not an event of a stream.
        first = await following(http, answer)
        assert isinstance(first, Began)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            stream = _streamed(answer, first.prompt_tokens, {**head, "object": writer.chunk}, writer, usage)
            return Stream(answer, stream, "text/event-stream")
        pieces: list[str] = []
        while isinstance(event := await following(http, answer), Piece):
            pieces.append(event.text)
    except ClientLeft:
        answer.cancel()
        return Response(status_code=499)  # nobody reads it
    except SlmopsError as fault:
        return failure(fault)
    except BaseException:
        answer.cancel()
        raise
    assert isinstance(event, Ended)
    choice = {"index": 0, **writer.answer("".join(pieces)), "logprobs": None, "finish_reason": event.reason}
    usage_of = _usage(first.prompt_tokens, event.tokens)
    return JSONResponse({**head, "object": writer.whole, "choices": [choice], "usage": usage_of})


async def _streamed(
    answer: Answer, prompt: int, head: dict[str, Any], writer: type[_Chat] | type[_Text], usage: bool
) -> AsyncGenerator[str, None]:
    """Server-sent events."""

    def chunk(choice: dict[str, Any], reason: str | None = None) -> str:
        one = {"index": 0, **choice, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [one], **({"usage": None} if usage else {})})

    try:
        if (opening := writer.opening()) is not None:
            yield chunk(opening)
        while not isinstance(event := await answer.next(QUIET), Ended):
            if event is None:
                yield ": still at work\n\n"
            elif isinstance(event, Piece):
                yield chunk(writer.piece(event.text))
        yield chunk(writer.piece(""), event.reason)
        if usage:
            yield _event({**head, "choices": [], "usage": _usage(prompt, event.tokens)})
        yield "data: [DONE]\n\n"
    except SlmopsError as fault:
        yield _event(_said(fault)[1])


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _said(fault: SlmopsError) -> tuple[int, dict[str, Any]]:
    code, word, said = status(fault)
    kind = "invalid_request_error" if code < 500 else "server_error"
    return code, {"error": {"message": said, "type": kind, "param": None, "code": word}}


def failure(fault: SlmopsError) -> Response:
    """An error in this format."""
    code, body = _said(fault)
    return JSONResponse(body, code, headers(fault))


def error(status: int, said: str, code: str, param: str | None = None) -> Response:
    body = {"error": {"message": said, "type": "invalid_request_error", "param": param, "code": code}}
    return JSONResponse(body, status)


def invalid(fault: ValidationError) -> Response:
    """The first field that is wrong, by name."""
    name, said = first_fault(fault)
    return error(400, said, "invalid_value", name or None)
