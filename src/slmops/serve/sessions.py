"""Signing in to the page: a key is shown once, and what the browser then keeps is a cookie that no script can read.

A session is a random number that leads, in this process's memory alone, to the key it was opened with. The guard is lent
that key for each request of the session, so a key that is taken back, or may do less than before, does so in its sessions
at once: rights are decided in one place. Sessions end with the process, and are bounded in number and time.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from slmops.serve.request import Caller
from slmops.serve.rights import SIGNING

MOST, MOST_OF_ONE = 1000, 20
"""Sessions at once, and of one key: the oldest of them goes."""
LONGEST, IDLE = 12 * 3600.0, 2 * 3600.0
"""Seconds after which a session ends, used or not, and after which an unused one does."""
SAFE = frozenset({"GET", "HEAD"})
KEYS = frozenset({b"authorization", b"x-api-key"})
"""Headers that show a key of their own."""


@dataclass
class Session:
    """Times are of the store's clock."""

    key: str
    whose: bytes
    """Hash of the key: one key's sessions are found without comparing keys."""
    began: float
    used: float

    def over(self, now: float) -> bool:
        return now - self.began > LONGEST or now - self.used > IDLE


class Sessions:
    """Those that are open. On the server's loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By the hash of their number: finding one takes no time that tells of another's. The least lately used first.
        self._held: dict[bytes, Session] = {}

    def open(self, key: str) -> str:
        """The number of a new session."""
        now, number = self._clock(), secrets.token_urlsafe(32)
        self._sweep(now)
        whose = _mark(key)
        own = [mark for mark, one in self._held.items() if one.whose == whose]
        for mark in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            del self._held[mark]
        while len(self._held) >= MOST:
            del self._held[next(iter(self._held))]
        self._held[_mark(number)] = Session(key, whose, now, now)
        return number

    def close(self, number: str) -> None:
        """Nothing where there is none."""
        self._held.pop(_mark(number), None)

    def __len__(self) -> int:
        self._sweep(self._clock())
        return len(self._held)

    def lent(self, scope: Scope, headers: Mapping[bytes, str]) -> dict[bytes, str]:
        """The headers of a request, with the key of its session where it shows no other and our own page sent it.

        A browser adds cookies to what other pages make it send. SameSite keeps most of them back; what remains (a page on
        another port of this host) is told by Sec-Fetch-Site, and a request that changes something must name our origin.
        """
        found = dict(headers)
        number = _cookie(scope, headers)
        if number is None or found.keys() & KEYS or not _own(scope, headers):
            return found
        now, mark = self._clock(), _mark(number)
        session = self._held.pop(mark, None)
        if session is not None and not session.over(now):
            session.used = now
            self._held[mark] = session
            found[b"authorization"] = f"Bearer {session.key}"
        return found

    def _sweep(self, now: float) -> None:
        for mark in [mark for mark, one in self._held.items() if one.over(now)]:
            del self._held[mark]

    def routes(self, who: Callable[[Request], Caller], sees: Callable[[Caller], list[str]]) -> list[Route]:
        """Sign in, sign out, and who is signed in. who: the caller that the guard found; sees: paths that one may read."""

        def said(caller: Caller, session: bool) -> dict[str, object]:
            return {"name": caller.name, "role": caller.role, "session": session, "sees": sees(caller)}

        async def opened(http: Request) -> Response:
            # The guard has judged the key by now, as on any route.
            kind, _, key = http.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not key.strip():
                cure = "send the key to sign in with: Authorization: Bearer KEY"
                return JSONResponse({"error": {"message": cure, "type": "invalid_request_error", "code": "no_key"}}, 400)
            answer = JSONResponse(said(who(http), True), 201, headers={"cache-control": "no-store"})
            _keep(answer, http.scope, self.open(key.strip()), int(LONGEST))
            return answer

        async def told(http: Request) -> Response:
            number = _cookie(http.scope, _headers(http))
            held = number is not None and _mark(number) in self._held and "authorization" not in http.headers
            return JSONResponse(said(who(http), held), headers={"cache-control": "no-store"})

        async def closed(http: Request) -> Response:
            if (number := _cookie(http.scope, _headers(http))) is not None:
                self.close(number)
            answer = Response(status_code=204, headers={"cache-control": "no-store"})
            _keep(answer, http.scope, "", 0)
            return answer

        return [
            Route(SIGNING, told, methods=["GET"]),
            Route(SIGNING, opened, methods=["POST"]),
            Route(SIGNING, closed, methods=["DELETE"]),
        ]


def _mark(number: str) -> bytes:
    return hashlib.sha256(number.encode("utf-8", "surrogateescape")).digest()


def _headers(http: Request) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in http.scope["headers"]}


def _name(scope: Scope, headers: Mapping[bytes, str]) -> str:
    """Of the cookie. Browsers give one host's cookies to all of its ports: each server has a name of its own."""
    port = headers.get(b"host", "").rpartition(":")[2]
    name = f"slmops-{port}" if port.isdecimal() else "slmops"
    return f"__Host-{name}" if scope["scheme"] == "https" else name


def _cookie(scope: Scope, headers: Mapping[bytes, str]) -> str | None:
    """The number that a request shows; None where it shows none, or two."""
    sought = _name(scope, headers)
    pairs = (one.strip().partition("=") for one in headers.get(b"cookie", "").split(";"))
    found = [value for name, _, value in pairs if name == sought]
    return found[0] if len(found) == 1 and 0 < len(found[0]) <= 100 else None


def _keep(answer: Response, scope: Scope, number: str, seconds: int) -> None:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    name, secure = _name(scope, headers), scope["scheme"] == "https"
    answer.set_cookie(name, number, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def _own(scope: Scope, headers: Mapping[bytes, str]) -> bool:
    """Whether a page of this very server sent it, or its user did by following a link."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return scope["method"] in SAFE
    # Behind what ends TLS for us, the page's scheme is not this connection's.
    return origin in {f"{scheme}://{headers.get(b'host')}" for scheme in ("http", "https")}
