"""Who may ask: checked before a route runs, so that what is forgotten is refused.

In this order: the shape of the head, the Host, the Origin, who it is, what they may, the body. What a route asks for stands
in rights.py and is found by the route itself: the same objects that the router will match, never a second look at the path.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slmops.core.errors import Busy, PolicyRefused
from slmops.serve import faults, rights
from slmops.serve.faults import Problem
from slmops.serve.keys import Keys
from slmops.serve.request import Caller
from slmops.serve.sessions import Sessions

CALLER = "slmops.caller"
"""Where the guard leaves in the scope who asks."""
NOTED = "slmops.noted"
"""Where a route may leave what the audit log should know: a dict of texts, such as model and digest."""
PEER = "peer"
"""Where the connection leaves, in the scope's state, the common name of its client certificate."""
MOST_BODY, MOST_HEADERS, MOST_PATH = 1 << 20, 100, 4096
DEEPEST = 64
"""Nesting of JSON in a body."""
BODY_SECONDS = 30.0
"""In which the body has to come."""
FORWARDED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})
SINGLE = frozenset({b"host", b"authorization", b"x-api-key", b"origin", b"content-length", b"content-type"})
"""Headers of which two would leave it open which one counts."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OF_STATUS = {401: {"www-authenticate": "Bearer"}, 408: {"connection": "close"}}
"""Of a refusal alone."""
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""Of what has none of its own: answers are no pages."""
NOBODY = Caller("nobody", "user", ())
"""Who asks an open route without a key: no model is theirs."""


class Tokens(Protocol):
    """Signed tokens of an identity provider."""

    async def caller(self, token: str) -> Caller | None:
        """Whose it is; None where it does not hold."""


class Told(Protocol):
    """What is told of requests that never come to the desk. Must not wait."""

    def refused(self, name: str, method: str, path: str, status: int) -> None:
        """A request was refused for who asks."""

    def able(self) -> None:
        """Raises Busy while it could not be told of a change: then there is none."""

    def changed(self, caller: Caller, method: str, path: str, status: int, noted: Mapping[str, str]) -> None:
        """A request to a route that may have changed something (rights.changes)."""


@dataclass(frozen=True)
class Access:
    """How callers are known. With no keys, no tokens and no certificates nobody is asked who they are."""

    hosts: frozenset[str]
    """Names that requests may be sent to, in lower case, without ports."""
    keys: Keys | None = None
    tokens: Tokens | None = None
    certificates: bool = False
    """Whether every connection has shown a client certificate that holds."""
    sessions: Sessions = field(default_factory=Sessions)
    """Who has signed in to the page."""
    own: bool = True
    """Whether the server can be reached from this machine alone."""
    origins: frozenset[str] = frozenset()
    """Web pages of other places that may ask."""
    told: Told | None = None
    """The audit log."""

    def anonymous(self, headers: Mapping[bytes, str]) -> Caller | None:
        """Who it is that shows nothing.

        Where keys are asked for, nobody. On one's own machine its user, who may do everything, as clients that manage
        models expect. Behind something that passes requests on, or open to the network (--insecure), anyone.
        """
        if self.keys is not None or self.tokens is not None or self.certificates:
            return None
        return Caller("anyone", "admin" if self.own and not FORWARDED & headers.keys() else "user")

    async def caller(self, headers: Mapping[bytes, str], peer: str | None) -> Caller | None:
        """Who asks, by their key, token or certificate; None where they show none that holds. Raises PolicyRefused."""
        if self.keys is None and self.tokens is None and not self.certificates:
            return self.anonymous(headers)
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        key = key.strip() if b"authorization" in headers else headers.get(b"x-api-key", "")
        if b"authorization" in headers and kind.lower() != "bearer":
            return None
        if key:
            if self.tokens is not None and key.count(".") == 2:
                return await self.tokens.caller(key)
            found = await self.keys.of(key) if self.keys is not None else None
            return found.caller if found is not None else None
        if self.certificates and peer:
            known = await self.keys.certified(peer) if self.keys is not None else None
            return known.caller if known is not None else Caller(f"certificate:{peer}", "user")
        return self.anonymous(headers)


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.said)
        self.problem = problem


def _refused(status: int, said: str, code: str) -> _Refused:
    return _Refused(Problem(status, said, code, headers=OF_STATUS.get(status, {})))


class Guard:
    """ASGI middleware in front of every route."""

    def __init__(
        self, app: ASGIApp, access: Access, routes: Sequence[BaseRoute], error: Callable[[Scope, Problem], object]
    ) -> None:
        """error: what is refused, as the format of its path has it (serve.wire)."""
        self._app, self._access, self._routes, self._error = app, access, routes, error
        for route in routes:
            if not isinstance(route, Route | Mount):
                raise TypeError(f"{route!r}: the guard knows routes and mounts only")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is spoken
        method, path, name = scope["method"], scope["path"], "nobody"
        send = _secured(send, scope["scheme"] == "https")
        try:
            headers = self._access.sessions.lent(scope, _head(scope))
            level, own = self._route(scope)
            self._place(headers, scope, level)
            try:
                caller = await self._access.caller(headers, scope.get("state", {}).get(PEER))
            except PolicyRefused:
                caller = None
            if caller is None and level != "open":
                raise _refused(401, "no valid key: send Authorization: Bearer KEY", "invalid_api_key")
            scope[CALLER] = caller = caller or NOBODY
            name = caller.name
            if level is not None and caller.role not in rights.MAY[level]:
                raise _refused(403, f"the role {caller.role} may not do this", "forbidden")
            told = self._access.told if rights.changes(method, own, level) else None
            if told is not None:
                try:
                    told.able()
                except Busy as busy:
                    raise _Refused(faults.problem(busy)) from None
            if own not in rights.STREAMED:
                receive = await _read(headers, receive)
        except _Refused as refusal:
            problem = refusal.problem
            if problem.status in (401, 403) and self._access.told is not None:
                self._access.told.refused(name, method, path, problem.status)
            await _refuse(send, problem, self._error(scope, problem))
            return
        except _Left:
            return
        if told is None:
            await self._app(scope, receive, send)
            return
        status, noted = 0, scope.setdefault(NOTED, {})

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            told.changed(caller, method, path, status, noted)

    def _route(self, scope: Scope) -> tuple[rights.Level | None, str]:
        """What the route of a request asks for, and the route's own path. None: no route takes it, which says nothing."""
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                assert isinstance(route, Route | Mount)
                own = rights.pattern(route.path)
                return rights.least(scope["method"], route.path), own
        return None, ""

    def _place(self, headers: Mapping[bytes, str], scope: Scope, level: rights.Level | None) -> None:
        """Whether the request was meant for this server, by who made the browser send it. Raises _Refused."""
        # A page of another site can have a browser send requests here under its own name (DNS rebinding).
        if _host(headers.get(b"host", "")) not in self._access.hosts:
            raise _refused(403, "this server is not asked under that name", "forbidden_host")
        own, origin = f"{scope['scheme']}://{headers[b'host'].lower()}", headers.get(b"origin")
        if origin is not None:
            theirs = origin not in self._access.origins and origin.lower() != own
        else:
            # An image or a form of another page sends no Origin with a GET; a link that is followed is the user's own act.
            theirs = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
            theirs = theirs and not (level == "open" and headers.get(b"sec-fetch-mode") == "navigate")
        if theirs:
            raise _refused(403, "pages of other places may not ask this server", "forbidden_origin")


def _head(scope: Scope) -> dict[bytes, str]:
    """The headers of a request. Raises _Refused for a head that is too large, or that can be read in two ways."""
    if len(scope["headers"]) > MOST_HEADERS:
        raise _refused(431, f"a request has at most {MOST_HEADERS} headers", "too_many_headers")
    if len(scope["path"]) > MOST_PATH or len(scope["query_string"]) > MOST_PATH:
        raise _refused(414, f"a path has at most {MOST_PATH} letters", "path_too_long")
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in SINGLE and name in headers:
            raise _refused(400, f"{name.decode('latin-1')} stands twice", "invalid_header")
        headers[name] = value.decode("latin-1")
    return headers


class _Left(Exception):
    """The client went before its request was whole."""


async def _read(headers: Mapping[bytes, str], receive: Receive) -> Receive:
    """The body, whole, for a route to receive: bounded in size, time and depth. Raises _Refused, _Left."""
    length = headers.get(b"content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY:
        raise _refused(413, f"a request has at most {MOST_BODY:,} bytes", "request_too_large")
    parts, size, more = list[bytes](), 0, int(length) > 0 or b"transfer-encoding" in headers
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Left
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MOST_BODY:
                    raise _refused(413, f"a request has at most {MOST_BODY:,} bytes", "request_too_large")
                more = message.get("more_body", False)
    except TimeoutError:
        raise _refused(408, f"the request did not come within {BODY_SECONDS:.0f} s", "request_timeout") from None
    body = b"".join(parts)
    if deeper(body, DEEPEST):
        raise _refused(400, f"JSON is nested at most {DEEPEST} deep", "too_deep")
    return _replayed(body, receive)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


# Possessive, so that no text, closed or not, is looked at twice.
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def deeper(body: bytes, depth: int) -> bool:
    """Whether JSON is nested deeper than this; of what is no JSON its reader will say more. Time is linear."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    import numpy as np

    steps = np.frombuffer(_TEXTS.sub(b"", body).translate(_STEPS, _OTHERS), np.int8)
    return bool(steps.size and steps.cumsum(dtype=np.int32).max() > depth)


def _host(text: str) -> str:
    """The name of a Host header, without its port."""
    if text.startswith("["):
        return (text.partition("]")[0] + "]").lower()
    return text.partition(":")[0].lower()


def _secured(send: Send, encrypted: bool) -> Callable[[Message], Awaitable[None]]:
    """Every answer says what a browser may do with it."""

    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *HEADERS]
            present = {name.lower() for name, _ in headers}
            headers += [POLICY] if POLICY[0] not in present else []
            headers += [(b"cache-control", b"no-store")] if b"cache-control" not in present else []
            headers += [(b"strict-transport-security", b"max-age=31536000")] if encrypted else []
            message["headers"] = headers
        await send(message)

    return secured


async def _refuse(send: Send, problem: Problem, said: object) -> None:
    body = json.dumps(said).encode()
    more = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    headers = [(name.encode(), value.encode()) for name, value in more.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
