"""Who may ask, and how much: checked before any route is looked at, so that what is forgotten is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slmops.serve.request import Caller

CALLER = "slmops.caller"
"""Where the guard leaves in the scope who asks."""
MOST_BODY = 1 << 20
STREAMED = "/api/blobs/"
"""Where bodies are weights, which the route bounds itself."""
OPEN = frozenset({"/health/live", "/health/ready", "/health/startup"})
"""Paths that need no key: they say nothing but that the server is there."""


@dataclass(frozen=True)
class Access:
    """keys: SHA-256 of each key that is let in, none: everyone. hosts: names that requests may be sent to."""

    keys: frozenset[bytes]
    hosts: frozenset[str]

    @staticmethod
    def of(keys: Collection[str], hosts: Collection[str]) -> Access:
        return Access(frozenset(hashlib.sha256(key.encode()).digest() for key in keys), frozenset(hosts))

    def knows(self, key: str) -> bool:
        """In constant time for every key that there is."""
        mark = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return sum(hmac.compare_digest(mark, known) for known in self.keys) > 0


class Guard:
    """ASGI middleware: Host, key and the size of the body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is spoken
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        streamed = scope["path"].startswith(STREAMED)
        # A page of another site can have a browser send requests here under its own name (DNS rebinding).
        if _host(headers.get(b"host", "")) not in self._access.hosts:
            await _refuse(send, 403, "this server is not asked under that name", "forbidden_host")
        elif self._access.keys and scope["path"] not in OPEN and not self._let_in(headers):
            await _refuse(send, 401, "no valid key: send Authorization: Bearer KEY", "invalid_api_key")
        elif int(length if (length := headers.get(b"content-length", "0")).isdecimal() else 0) > MOST_BODY and not streamed:
            await _refuse(send, 413, f"a request has at most {MOST_BODY:,} bytes", "request_too_large")
        else:
            # Without keys, who is on this machine is its owner.
            here = (scope.get("client") or ("",))[0] in ("127.0.0.1", "::1")
            scope[CALLER] = Caller(role="admin" if here and not self._access.keys else "user")
            await self._app(scope, receive if streamed else _bounded(receive), send)

    def _let_in(self, headers: dict[bytes, str]) -> bool:
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._access.knows(key.strip())


class TooLarge(Exception):
    """The body went on past MOST_BODY."""


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY:
            raise TooLarge
        return message

    return bounded


def _host(text: str) -> str:
    """The name of a Host header, without its port."""
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].lower()


async def _refuse(send: Send, status: int, said: str, code: str) -> None:
    body = json.dumps({"error": {"message": said, "type": "invalid_request_error", "param": None, "code": code}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
