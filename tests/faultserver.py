"""An HTTP server in a thread, over files or in front of a real server, that breaks what it is told to break.

It tells what it was asked, so that a test can see which headers went where.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import fakeserver


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes
    sent: int = 0
    """Bytes of body that were answered."""


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Fault:
    """What goes wrong with requests of this method and path, so many times."""

    method: str
    path: str
    times: int = 1
    reply: Reply | None = None
    """In place of the server's answer."""
    cut: int | None = None
    """Bytes of body after which the connection is reset."""
    end: int | None = None
    """Bytes of body after which the connection is closed, as if that were all."""
    flip: int | None = None
    """A byte of the body that is changed."""
    seconds: float = 0
    """Pause between pieces of 16 KiB."""
    swallow: int | None = None
    """Bytes of the request's body that arrive before the connection is reset."""


@dataclass
class Server:
    answer: Callable[[Asked], Reply]
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def of(self, method: str, path: str = "") -> list[Asked]:
        """Requests of a method, whose path matches."""
        return [one for one in self.asked if one.method == method and re.search(path, one.path)]

    def meet(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def serve(answer: Callable[[Asked], Reply], *faults: Fault, certificate: ssl.SSLContext | None = None) -> Iterator[Server]:
    held = Server(answer, list(faults))
    with fakeserver.running(Handler, certificate, held=held) as held.url:
        yield held


def files(held: dict[str, bytes], *, ranges: bool = True, tag: str = '"v1"') -> Callable[[Asked], Reply]:
    """Path -> content, with ranges as RFC 9110 has them."""

    def answer(asked: Asked) -> Reply:
        content = held.get(urlsplit(asked.path).path)
        if content is None:
            return Reply(404)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if not ranges or wanted is None or asked.headers.get("if-range", tag) != tag:
            return Reply(200, {"ETag": tag}, content)
        begin = int(wanted[1])
        if begin >= len(content):
            return Reply(416, {"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": tag, "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        return Reply(206, headers, content[begin:])

    return answer


def forward(upstream: str) -> Callable[[Asked], Reply]:
    """What the server at this URL answers; it is told its own name, so that where it leads to is the way through here."""

    def answer(asked: Asked) -> Reply:
        link = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
        with contextlib.closing(link):
            left_out = ("connection", "transfer-encoding", "content-length")
            headers = {name: value for name, value in asked.headers.items() if name not in left_out}
            link.request(asked.method, asked.path, asked.body, headers)
            got = link.getresponse()
            body = got.read()
            kept = {
                name: value for name, value in got.getheaders() if name.lower() not in ("connection", "transfer-encoding")
            }
            return Reply(got.status, kept, body)

    return answer


class Handler(BaseHTTPRequestHandler):
    held: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = self.held.meet(self.command, self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        cut = fault is not None and fault.swallow is not None
        asked = Asked(self.command, self.path, headers, self.rfile.read(fault.swallow) if fault and cut else self.content())
        with self.held.lock:
            self.held.asked.append(asked)
        if cut:
            self.held.answer(asked)
            return self.reset()
        reply = fault.reply if fault is not None and fault.reply is not None else self.held.answer(asked)
        self.send_response(reply.status)
        headers = {name: value for name, value in reply.headers.items() if name.lower() not in ("date", "server")}
        if not any(name.lower() == "content-length" for name in headers) and reply.status != 204:
            headers["Content-Length"] = str(len(reply.body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.pour(asked, reply.body, fault)

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def pour(self, asked: Asked, body: bytes, fault: Fault | None) -> None:
        if asked.method == "HEAD":
            return
        last = len(body)
        if fault is not None:
            if fault.flip is not None and fault.flip < len(body):
                body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
            last = min(last, *(one for one in (fault.cut, fault.end) if one is not None), last)
        for begin in range(0, last, 16384):
            piece = body[begin : min(begin + 16384, last)]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            asked.sent += len(piece)
            if fault is not None and fault.seconds:
                time.sleep(fault.seconds)
        if fault is not None and fault.cut is not None:
            self.reset()
        elif last < len(body):
            self.wfile.flush()
            self.close_connection = True

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reset(self) -> None:
        """As a cable that is pulled: RST, not FIN."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = self.rfile = _Nothing()  # type: ignore[assignment]


class _Nothing:
    """What a handler flushes and closes when its connection is gone."""

    closed = True

    def flush(self) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def cable(host: str, *cuts: int) -> Iterator[str]:
    """A line to HOST:PORT that is cut each time so many bytes more went towards it; the host to speak to."""
    left = list(cuts)
    went = 0
    lock = threading.Lock()

    def carry(source: socket.socket, target: socket.socket, up: bool) -> None:
        nonlocal went
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
                if up:
                    with lock:
                        went += len(piece)
                        if left and went >= left[0]:
                            left.pop(0)
                            went = 0
                            break
            for one in (source, target):
                one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                name, _, port = host.partition(":")
                far = socket.create_connection((name, int(port)))
                for words in ((near, far, True), (far, near, False)):
                    threading.Thread(target=carry, args=words, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
