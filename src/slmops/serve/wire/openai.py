"""OpenAI's API: /v1/models, /v1/embeddings, /v1/chat/completions, /v1/completions, whole and as server-sent events.

https://platform.openai.com/docs/api-reference; what the official client reads was looked up in it (openai 3.5). What cannot
be done is refused by name; what changes no answer is let pass.
"""

from __future__ import annotations

import random
import time
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core.errors import SourceNotFound
from slmops.serve.desk import Desk
from slmops.serve.models import Models
from slmops.serve.wire._answers import begin, whole
from slmops.serve.wire._http import SSE, Stream, caller, read
from slmops.serve.wire._openai_body import Chat, Completion
from slmops.serve.wire._openai_embed import Embedding, written
from slmops.serve.wire._openai_write import ChatWriter, TextWriter, Writer, chunks, completion
from slmops.serve.wire._openai_write import error as error
from slmops.serve.wire._openapi import reads

PREFERENCE = 1
"""What most clients speak is looked for first."""
OWNS = ("",)
"""And what no other format has."""
KEYS = ("id", "object", "created", "model", "choices", "usage")


def routes(desk: Desk) -> list[Route]:
    """The routes of this format."""
    models = desk.models

    @reads(None, "object", "data")
    async def listed(http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [_card(models, name) for name in await desk.names(caller(http))]})

    @reads(None, "id", "object", "created", "owned_by")
    async def one(http: HttpRequest) -> Response:
        name, names = http.path_params["name"], await desk.names(caller(http))
        if name not in names:
            raise SourceNotFound(f"no model {name[:100]!r} is served here", f"one of: {', '.join(names)}")
        return JSONResponse(_card(models, name))

    @reads(Chat, *KEYS, media=SSE)
    async def chat(http: HttpRequest) -> Response:
        return await _answered(http, desk, Chat)

    @reads(Completion, *KEYS, media=SSE)
    async def text(http: HttpRequest) -> Response:
        return await _answered(http, desk, Completion)

    @reads(Embedding, "object", "data", "model", "usage")
    async def embeddings(http: HttpRequest) -> Response:
        return await _embedded(http, desk)

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/models", listed, methods=["GET"]),
        Route("/v1/models/{name:path}", one, methods=["GET"]),
    ]


def _card(models: Models, name: str) -> dict[str, Any]:
    """context_length is known once the model was asked for: opening what nobody asks for would read files."""
    card = {"id": name, "object": "model", "created": int(models.began), "owned_by": "slmops"}
    model = models.at_hand(name)
    return {
        **card,
        "context_length": model.context if model is not None else None,
        "loaded": model is not None and model.loaded,
    }


async def _answered(http: HttpRequest, desk: Desk, form: type[Chat] | type[Completion]) -> Response:
    body = await read(http, form)
    requests, each = body.requests(), body.n or 1
    writer: Writer = ChatWriter()
    if isinstance(body, Completion):
        writer = TextWriter([str(text) if body.echo else "" for text in body.prompts for _ in range(each)])
    answers, began = await begin(http, desk, requests)
    head = {"id": f"{writer.prefix}{random.getrandbits(96):024x}", "created": int(time.time()), "model": body.model}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return Stream(answers, chunks(head, writer, answers, each, usage), SSE)
    return JSONResponse(completion(head, writer, await whole(http, answers, began), each))


async def _embedded(http: HttpRequest, desk: Desk) -> Response:
    body = await read(http, Embedding)
    return JSONResponse(written(body, await desk.embed(body.model, body.texts(), caller(http))))
