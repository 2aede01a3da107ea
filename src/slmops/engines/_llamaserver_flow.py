"""Requests in flight at a llama-server: a connection each, all of them watched by one thread."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from slmops.core.errors import EngineFailed, SlmopsError, UsageError
from slmops.engines import Likely, News, Sampling

WAIT = 1.0
"""Seconds after which a step returns without news."""


class Flow:
    """See engines.Flow. The server batches what is in flight; closing a connection frees its slot."""

    def __init__(
        self,
        port: int,
        key: str,
        options: Callable[[Sequence[int], Sampling], dict[str, Any]],
        prefixes: bool,
        lost: Callable[[BaseException], SlmopsError],
    ) -> None:
        """options: the body of a /completion request. prefixes: whether the vocabulary begins a text with a space that is
        not its own. lost: what a connection that broke means."""
        self._address, self._options, self._prefixes, self._lost = ("127.0.0.1", port), options, prefixes, lost
        self._head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n".encode()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._streams: dict[int, _Stream] = {}

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        body = {**self._options(ids, sampling), "n_predict": sampling.max_tokens, "stream": True, "return_progress": True}
        data = json.dumps(body).encode()
        try:
            connection = socket.create_connection(self._address, timeout=10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b"%sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            connection.sendall(head % (self._head, len(data)) + data)
        except OSError as error:
            raise self._lost(error) from None
        connection.setblocking(False)
        stream = self._streams[which] = _Stream(which, connection, sampling, self._prefixes)
        self._selector.register(connection, selectors.EVENT_READ, stream)

    def cancel(self, which: int) -> None:
        if (stream := self._streams.pop(which, None)) is not None:
            self._selector.unregister(stream.connection)
            stream.connection.close()

    def step(self) -> list[News]:
        found: list[News] = []
        for key, _ in self._selector.select(WAIT):
            stream: _Stream | None = key.data
            if stream is None:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(1 << 12)
                continue
            try:
                news = list(stream.read())
            except (OSError, ValueError, KeyError) as error:
                news = [News(stream.which, error=self._lost(error))]
            except SlmopsError as error:
                news = [News(stream.which, error=error)]
            if stream.over or (news and news[-1].error is not None):
                self.cancel(stream.which)
            found += news
        return found

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b".")

    def close(self) -> None:
        for which in list(self._streams):
            self.cancel(which)
        self._selector.close()
        self._woken.close()
        self._waker.close()


class _Stream:
    """The answer to one /completion request: server-sent events in chunks."""

    def __init__(self, which: int, connection: socket.socket, sampling: Sampling, prefixes: bool) -> None:
        self.which, self.connection, self.over = which, connection, False
        self._stops, self._logprobs, self._prefixes = frozenset(sampling.stop_ids), sampling.logprobs, prefixes
        self._data, self._body, self._status = b"", b"", 0
        self._told = False
        self._made = self._held = 0
        """Tokens by the server's count, and of these, those that are not told: the last one may be the end."""

    def read(self) -> Iterator[News]:
        """What has come. Raises ConnectionError where it broke off, EngineFailed and UsageError as the server says."""
        try:
            data = self.connection.recv(1 << 18)
        except BlockingIOError:
            return
        self._data += data
        if not self._status:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if end:
                self._status, self._data = int(head.split(b" ", 2)[1]), rest
                self._chunked = b"transfer-encoding: chunked" in head.lower()
        if self._status:
            self._body += self._unchunked() if self._chunked else self._data
            self._data = self._data if self._chunked else b""
            if self._status != 200:
                if data and self._chunked:
                    return
                self._refused(data)
            *lines, self._body = self._body.split(b"\n")
            for line in lines:
                if line.startswith(b"data: ") and not self.over:
                    yield from self._event(json.loads(line[6:]))
                elif line.startswith(b"error: "):
                    raise EngineFailed(f"llama-server stopped: {line[7:300]!r}")
        if not data and not self.over:
            raise ConnectionError("the stream ended early")

    def _unchunked(self) -> bytes:
        """What of the data is whole chunks (RFC 9112, 7.1); the rest stays."""
        found, data, place = [], self._data, 0
        while (end := data.find(b"\r\n", place)) >= 0:
            size = int(data[place:end].split(b";")[0], 16)
            if len(data) < end + 2 + size + 2:
                break
            found.append(data[end + 2 : end + 2 + size])
            place = end + 2 + size + 2
        self._data = data[place:]
        return b"".join(found)

    def _refused(self, more: bytes) -> None:
        """Raises once the whole of it is there."""
        try:
            said = json.loads(self._body)["error"]
        except (ValueError, KeyError):
            if more:
                return
            raise EngineFailed(f"llama-server answers with {self._status}: {self._body[:300]!r}") from None
        if self._status == 400:
            raise UsageError(f"llama-server does not take the request: {str(said.get('message'))[:300]}")
        raise EngineFailed(f"llama-server answers with {self._status}: {str(said)[:300]}")

    def _event(self, event: dict[str, Any]) -> Iterator[News]:
        if "error" in event:
            raise EngineFailed(f"llama-server stopped: {str(event['error'])[:300]}")
        cached = None
        if not self._told:
            self._told, cached = True, event.get("prompt_progress", {}).get("cache", 0)
        if event.get("stop"):
            self.over = True
            ended = event.get("stop_type")
            # The token that ended it was counted.
            made = event.get("tokens_predicted", self._made) - (ended == "eos")
            count = made - (self._made - self._held)
            yield News(
                self.which, event.get("content", ""), max(0, count), cached, end="length" if ended == "limit" else "stop"
            )
            return
        if "prompt_progress" in event:
            if cached is not None:
                yield News(self.which, cached=cached)
            return
        if not self._stops.isdisjoint(event.get("tokens", ())):
            self.over = True
            yield News(self.which, "", self._held, cached, end="stop")
            return
        text, made = event["content"], event["tokens_predicted"]
        told = made - self._made + self._held
        self._made, self._held = made, 0
        if not text:
            self._held, told = 1, told - 1
        elif self._prefixes:
            text, self._prefixes = text.removeprefix(" "), False
        if text or told or cached is not None:
            yield News(self.which, text, told, cached, tuple(map(self._likely, event.get("completion_probabilities", ()))))

    def _likely(self, one: dict[str, Any]) -> Likely:
        top = tuple((str(other["token"]), float(other["logprob"])) for other in one["top_logprobs"][: self._logprobs or 0])
        return Likely(str(one["token"]), float(one["logprob"]), top)
