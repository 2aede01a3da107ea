"""HTTP to one other server: bounded, verified, no redirects, its key sent to it alone and written nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import slmops
from slmops.core.errors import Busy, EngineFailed, SlmopsError, Unreachable, Unsupported, UsageError
from slmops.registry import _http
from slmops.serve.names import Remote
from slmops.serve.upstream.events import shortened

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS, SILENT_SECONDS = 10.0, 300.0
"""For a connection; and without a byte: a long prompt is read in silence."""
DRAIN_SECONDS = 1.0
"""For what comes behind the end of an answer, so that the connection can be used again."""
MOST_EVENT, MOST_STREAM = 4 << 20, 256 << 20
"""Bytes of one event, and of all of an answer: 131,072 tokens with 20 alternatives each fit."""
MOST_BODY, MOST_FAULT = 64 << 20, 64 << 10
"""Bytes of an answer that is no stream, and of one that says what is wrong."""
KEPT = 20
"""Idle connections that are kept, for so many seconds."""
KEPT_SECONDS = 30.0
LONGEST_PAUSE = 86400.0
"""Seconds that are told to clients, whatever Retry-After asks for."""
MOST_KEY = 8192

log = logging.getLogger("slmops.upstream")


class Client:
    """Connections to one server. Made anywhere, used and closed on one loop; asks nothing by itself."""

    def __init__(self, name: str, source: Remote, silent: float = SILENT_SECONDS) -> None:
        """name: of the model, for logs. silent: seconds without a byte. Raises UsageError without the key that is named."""
        import httpx2

        self._name, self._url, self._key = name, source.url, _key(source.key_env)
        held = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        secure = source.url.startswith("https:")
        self._http = httpx2.AsyncClient(
            verify=_http.certificates(),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"User-Agent": f"slmops/{slmops.__version__}", "Accept-Encoding": "identity", **held},
            follow_redirects=False,
            timeout=httpx2.Timeout(silent, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT, keepalive_expiry=KEPT_SECONDS),
            trust_env=secure,  # a proxy would read what is not encrypted, the key too
        )

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """The data of each server-sent event that is answered. Closing it closes the connection, unless all was read.

        Raises Unreachable, Busy, UsageError, Unsupported, and EngineFailed for what is no such stream.
        """
        async with self._sent(path, body) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != "text/event-stream":
                raise self._failed(f"answers with {kind[:50]!r} where a stream was asked for")
            came, rest, data, held = 0, bytearray(), list[bytes](), 0
            async for piece in response.aiter_raw():
                came += len(piece)
                rest += piece
                if came > MOST_STREAM:
                    raise self._failed(f"sends more than {MOST_STREAM:,} bytes")
                while b"\n" in piece and (end := rest.find(b"\n")) >= 0:
                    line = bytes(rest[:end]).removesuffix(b"\r")
                    del rest[: end + 1]
                    if line.startswith(b"data:"):
                        data.append(line[5:].removeprefix(b" "))
                        held += len(line)
                    elif not line and data:
                        yield b"\n".join(data).decode("utf-8", "replace")
                        data.clear()
                        held = 0
                if len(rest) + held > MOST_EVENT:
                    raise self._failed(f"sends an event of more than {MOST_EVENT:,} bytes")

    async def finish(self, events: AsyncGenerator[str, None]) -> None:
        """Read what is left of a stream whose end was told."""
        with contextlib.suppress(TimeoutError, SlmopsError):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in events:
                    pass

    async def whole(self, path: str, body: Mapping[str, Any]) -> bytes:
        """An answer that is no stream. Raises as `events` does."""
        async with self._sent(path, body) as response:
            content = await _bounded(response, MOST_BODY)
            if len(content) > MOST_BODY:
                raise self._failed(f"sends more than {MOST_BODY:,} bytes")
            return content

    async def close(self) -> None:
        await self._http.aclose()

    @contextlib.asynccontextmanager
    async def _sent(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx2.Response]:
        import httpx2

        try:
            content = json.dumps(body).encode()
            request = self._http.build_request(
                "POST", self._url + path, content=content, headers={"Content-Type": "application/json"}
            )
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise self._fault(response, await _bounded(response, MOST_FAULT))
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise self._failed("sends what is compressed, which was not asked for")
                yield response
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            # Its address and what the network says of it are for the log.
            fault = f"{type(error).__name__}: {str(error)[:300]}"
            log.error("not reached", extra={"model": self._name, "upstream": self._url, "fault": fault})
            raise Unreachable("the server that computes this model cannot be reached", "ask again later") from None

    def _fault(self, response: httpx2.Response, body: bytes) -> SlmopsError:
        """A status that is no answer."""
        status, said = response.status_code, self._said(body)
        log.warning("refused", extra={"model": self._name, "upstream": self._url, "status": status})
        if status == 429:
            seconds = min(_http.after(response.headers) or 1.0, LONGEST_PAUSE)
            return Busy(f"the server that computes this model is busy{said}", "try again later", seconds, cause="upstream")
        if status in (401, 403):
            return self._failed(f"refuses the key of this server ({status})")  # its words may quote the key
        if status in (404, 405, 501):
            return Unsupported(f"the server that computes this model has no such model or route{said}")
        if 400 <= status < 500 and status != 408:
            return UsageError(f"the server that computes this model refuses{said}")
        if status >= 500 or status == 408:
            return Unreachable(f"the server that computes this model answers {status}", "ask again later")
        return self._failed(f"answers {status}, and is not followed elsewhere")

    def told(self, message: object) -> str:
        """What the server says of a fault, as clients may read it: its key is cut out first."""
        return shortened(message.replace(self._key, "***") if isinstance(message, str) and self._key else message)

    def _said(self, body: bytes) -> str:
        try:
            value = json.loads(body)
            error = value.get("error", value)
            message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        except (ValueError, RecursionError, AttributeError):
            return ""
        return self.told(message)

    def _failed(self, what: str) -> EngineFailed:
        return EngineFailed(f"{self._url} of {self._name} {what}")


async def _bounded(response: httpx2.Response, most: int) -> bytes:
    """The body, cut a little behind `most`."""
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > most:
            break
    return bytes(content)


def _key(variable: str | None) -> str:
    """Raises UsageError; the fault does not quote it."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]+", key) or len(key) > MOST_KEY:
        raise UsageError(f"the environment has no key in {variable}", f"export {variable}=...")
    return key
