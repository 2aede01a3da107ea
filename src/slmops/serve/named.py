"""A name for every response: `x-request-id`, as OpenAI's clients report it (`request-id` for Anthropic's)."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = "slmops.request"
"""Where the name of a request is left in the scope, for logs."""


class Named:
    """ASGI middleware, in front of every other one: what is refused has a name too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Never the client's own: it would stand in logs as it came.
        name = scope[NAME] = "req_" + secrets.token_hex(12)
        mark = name.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", mark), (b"request-id", mark)]
            await send(message)

        await self._app(scope, receive, named)
