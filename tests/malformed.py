"""Requests that no client sends: JSON built from the wire formats' schemas and then broken, and bytes that are hardly HTTP.

For tests and bench/malformed.py. A server may answer anything with 2xx, 3xx or 4xx, or 503 where it is full; never with
another 5xx, and never with silence.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

SECONDS = 20.0
"""In which an answer must have come."""
SKIPPED = frozenset({"/shutdown", "/api/pull", "/api/push"})
"""End the server, or ask other servers. Where they are refused is test_matrix.py's."""
TEXTS = (
    "", "home", "x" * 3000, "\x00", "\ud800", "\u202e", "../../etc/passwd", "%2e%2e", "{{ 7*7 }}", "\r\nX: y", "null",
    "{% for x in range(9**9) %}", "\u00e9" * 50, "-1", "1e999", "<|im_end|>", "sha256:" + "0" * 64, "a/b:c@d", "0" * 500,
    "\U0001f600" * 20, "user", "system", "assistant", "tool", "text", "json_object", "function", "auto", "[" * 300,
    "(a+)+$", "root ::= root",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 0.0, 0.5, 1e308, -1e308, 1 << 31, 1 << 63, (1 << 63) - 1, -(1 << 63), 1 << 200, 10**30, 5e-324, True)
ANY = (None, True, False, [], {}, [[]], {"": {}}, [None] * 50, {"a": [{"b": {"c": []}}]})


def forms() -> list[dict[str, Any]]:
    """The JSON schema of every body that any wire format reads."""
    from slmops.core import plugins
    from slmops.serve.wire._http import Body

    for name in plugins.names("serve.wire"):
        plugins.load("serve.wire", name)
    found, left = [], [Body]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind is not Body:
            found.append(kind.model_json_schema())
    return found


class Maker:
    """Requests of one seed."""

    def __init__(self, seed: int, routes: Sequence[tuple[str, str]], key: str | None, model: str) -> None:
        """routes: (method, path) of the application's own table. model: one that is served."""
        self._random, self._forms, self._key, self._model = random.Random(seed), forms(), key, model
        self._routes = [(method, path) for method, path in routes if path not in SKIPPED]

    def value(self, schema: Any, whole: dict[str, Any], depth: int = 0) -> Any:
        """A value of a schema, more or less."""
        pick = self._random
        if pick.random() < 0.03 or depth > 12 or not isinstance(schema, dict):
            return pick.choice((pick.choice(TEXTS), pick.choice(NUMBERS), pick.choice(ANY)))
        if "$ref" in schema:
            return self.value(whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], whole, depth + 1)
        for one in ("anyOf", "oneOf", "allOf"):
            if one in schema:
                return self.value(pick.choice(schema[one]), whole, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return pick.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                known, needed = schema.get("properties", {}), schema.get("required", [])
                made = {
                    name: self.value(one, whole, depth + 1)
                    for name, one in known.items()
                    if (name in needed and pick.random() < 0.97) or pick.random() < 0.25
                }
                if "model" in known and pick.random() < 0.8:
                    made["model"] = self._model
                for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                    if name in known and pick.random() < 0.9:
                        made[name] = pick.choice((1, 2, 3))
                if pick.random() < 0.05:
                    made[pick.choice(TEXTS)] = pick.choice(ANY)
                return made
            case "array":
                return [self.value(schema.get("items", {}), whole, depth + 1) for _ in range(pick.choice((0, 1, 1, 2, 3)))]
            case "string":
                return pick.choice(("hi", "turn on the light", pick.choice(TEXTS)))
            case "integer" | "number":
                least, most = schema.get("minimum", 0), schema.get("maximum", 4)
                return pick.choice((least, most, 1, pick.choice(NUMBERS)))
            case "boolean":
                return pick.random() < 0.5
            case "null":
                return None
        return pick.choice(ANY)

    def body(self) -> bytes:
        """A JSON text, sometimes broken."""
        pick = self._random
        schema = pick.choice(self._forms)
        text = json.dumps(self.value(schema, schema), ensure_ascii=pick.random() < 0.5).encode("utf-8", "surrogatepass")
        if pick.random() < 0.6:
            return text
        made = bytearray(text)
        for _ in range(pick.randint(1, 4)):
            at = pick.randrange(len(made) + 1)
            match pick.randrange(8):
                case 0:
                    made[at:at] = pick.choice(
                        (b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b"\xff\xfe", b"\x00", b"//", b"\\u0000")
                    )
                case 1:
                    del made[at : at + pick.randint(1, 20)]
                case 2:
                    made[at:at] = pick.choice((b"[", b"{", b"]", b"}", b'"', b",", b":")) * pick.choice((1, 1, 65, 3000))
                case 3 if made:
                    made[at - 1] ^= 1 << pick.randrange(8)
                case 4:
                    made[at:at] = made[: pick.randint(1, 200)]
                case 5:
                    made[:0] = pick.choice((b"\xef\xbb\xbf", b"\x1f\x8b", b" " * 1000))
                case 6:
                    made[at:at] = b"9" * pick.choice((20, 400, 5000))
                case _:
                    made = made[:at]
        return bytes(made)

    def target(self) -> tuple[str, str]:
        """A route, its parameters filled in."""
        method, path = self._random.choice(self._routes)
        fill = lambda _: self._random.choice((self._model, "x", "..", "%00", "a%2fb", "%ff", "x" * 900))  # noqa: E731
        return method, re.sub(r"\{[^}]*\}", fill, path)

    def request(self) -> tuple[bytes, bool]:
        """The bytes of a request, and whether it is sound enough for the connection to be kept."""
        pick = self._random
        method, path = self.target()
        body = self.body() if method not in ("GET", "HEAD") or pick.random() < 0.05 else b""
        kind = pick.choice(
            ("application/json",) * 5
            + ("text/plain", "", "multipart/form-data; boundary=x", "application/json; charset=utf-7")
        )
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {self._key}"] if self._key else []
        whole = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
        if pick.random() < 0.75:
            return whole, True
        made = bytearray(whole)
        match pick.randrange(9):
            case 0:
                for _ in range(pick.randint(1, 9)):
                    made[pick.randrange(len(made))] = pick.randrange(256)
            case 1:
                made = made[: pick.randrange(len(made))]
            case 2:
                length = pick.choice(
                    ("-1", "1e3", "0x10", "99999999999999999999", "5, 5", "\u00b2", "", "1\r\nContent-Length: 2")
                )
                made = bytearray(
                    whole.replace(b"Content-Length: %d" % len(body), f"Content-Length: {length}".encode("latin-1"))
                )
            case 3:
                chunks = pick.choice(
                    (
                        b"zz\r\n",
                        b"ffffffffffffffffff\r\nx",
                        b"-1\r\nx\r\n",
                        b"5\r\nab\r\n0\r\n\r\n",
                        b"1;" + b"x" * 9000 + b"\r\n",
                    )
                )
                head = whole.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked").split(b"\r\n\r\n")[0]
                made = bytearray(head + b"\r\n\r\n" + chunks)
            case 4:
                made = bytearray(
                    whole.replace(b"HTTP/1.1", pick.choice((b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1 x", b"", b"XTTP/1.1")), 1)
                )
            case 5:
                more = pick.choice(
                    (
                        "X: " + "y" * 70_000,
                        "\r\n".join(f"X-{i}: 1" for i in range(300)),
                        " folded: x",
                        "X\x00: y",
                        ": y",
                        "Host: evil",
                    )
                )
                made = bytearray(whole.replace(b"\r\n", b"\r\n" + more.encode("latin-1") + b"\r\n", 1))
            case 6:
                made = bytearray(pick.randbytes(pick.randint(1, 400)))
            case 7:
                made = bytearray(whole.replace(b"\r\n", pick.choice((b"\n", b"\r", b"\r\r\n")), pick.randint(1, 4)))
            case _:
                upgrade = b"\r\nConnection: Upgrade\r\nUpgrade: %s\r\n" % pick.choice((b"websocket", b"h2c", b"x"))
                made = bytearray(whole.replace(b"\r\n", upgrade, 1))
        return bytes(made), False


@dataclass
class Report:
    """What became of them."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    """Connections that were closed without a word, which is an answer to what is no HTTP."""
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


async def attack(port: int, maker: Iterator[tuple[bytes, bool]], at_once: int = 16) -> Report:
    """Send them all, so many at once, and look at every answer."""
    report = Report()

    async def one_after_another() -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        for data, sound in maker:
            began = time.monotonic()
            for fresh in (False, True):
                if writer is None or reader is None or fresh:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
                try:
                    status = await asyncio.wait_for(_answer(reader, writer, data, sound), SECONDS)
                except TimeoutError:
                    report.faults.append(f"no answer within {SECONDS:.0f} s to {data[:300]!r}")
                    status = -1
                except OSError:
                    status = 0
                if status != 0 or not sound:
                    break
                writer.close()  # a connection that was kept may have ended meanwhile: once more
            report.sent += 1
            report.slowest = max(report.slowest, time.monotonic() - began)
            report.statuses[status] += 1
            report.silent += status == 0
            if status >= 500 and status != 503:
                report.faults.append(f"{status} to {data[:3000]!r}")
            if not sound or status <= 0:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return report


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, sound: bool) -> int:
    """The status of the answer; 0: the connection was closed without one."""
    writer.write(data)
    if not sound and writer.can_write_eof():
        writer.write_eof()  # nothing more will come: what waits for the rest need not wait
    await writer.drain()
    try:
        head = await reader.readuntil(b"\r\n\r\n") if sound else await reader.read()
    except asyncio.IncompleteReadError:
        return 0
    match = re.match(rb"HTTP/1\.1 (\d{3})", head)
    if match is None:
        return 0
    if sound:
        await _rest(reader, head.lower(), data)
    return int(match[1])


async def _rest(reader: asyncio.StreamReader, head: bytes, data: bytes) -> None:
    """The body, so that the connection can be used again."""
    if data.startswith(b"HEAD") or b" 204 " in head[:16] or b" 304 " in head[:16]:
        return
    if length := re.search(rb"content-length: (\d+)", head):
        await reader.readexactly(int(length[1]))
    elif b"transfer-encoding: chunked" in head:
        while (size := int((await reader.readline()).split(b";")[0], 16)) or not await reader.readline():
            await reader.readexactly(size + 2)
