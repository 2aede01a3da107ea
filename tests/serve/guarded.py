"""The application with every role's key, asked without sockets: `ask(app, method, target, headers)`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from slmops.serve import access, app, keys, limits
from slmops.serve.desk import Desk
from slmops.serve.metrics import Metrics
from slmops.serve.models import Models
from slmops.serve.names import Entry, Names
from slmops.serve.request import Caller, Role

HOST = "127.0.0.1:8080"
ROLES: tuple[Role, ...] = ("admin", "operator", "user", "metrics")
KEYS = {role: f"slm_{role}-{'x' * 40}" for role in ROLES}
EXPIRED = f"slm_expired-{'x' * 40}"


def keys_file(folder: Path, **more: keys.Key) -> Path:
    """A key for each role, and one for an admin that has expired."""
    made = {role: keys.Key(Caller(role, role), keys.mark(key)) for role, key in KEYS.items()}
    made["expired"] = keys.Key(Caller("expired", "admin"), keys.mark(EXPIRED), expires=1.0)
    keys.write(folder / "keys.yaml", made | more)
    return folder / "keys.yaml"


def built(file: Path | None, entries: Sequence[Entry] = (), rest: Entry | None = None, **more: Any) -> Any:
    """The real application, which serves these models, and with `rest` what the registry has."""
    found = keys.Keys(file) if file is not None else None
    models = Models(Names(entries, {}, rest))
    desk = Desk(models, [limits.Limits(4096)])
    return app.build(desk, access.Access(frozenset({"127.0.0.1", "localhost"}), found, **more), Metrics(models))


def scope(method: str, target: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """As uvicorn makes it of a request's head."""
    raw, _, query = target.partition("?")
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "", "state": {},
        "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 50000), "method": method, "path": unquote(raw),
        "raw_path": raw.encode(), "query_string": query.encode(), "headers": headers,
    }  # fmt: skip


async def ask(
    asked: Any, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", host: str | None = HOST
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    sent = [(b"host", host.encode("latin-1"))] if host is not None else []
    sent += [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    sent += [(b"content-length", str(len(body)).encode())] if body else []
    status, got, parts, given = 0, dict[str, str](), list[bytes](), False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.sleep(60)
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            got.update({name.decode(): value.decode("latin-1") for name, value in message["headers"]})
        else:
            parts.append(message.get("body", b""))

    await asked(scope(method, target, sent), receive, send)
    return status, got, b"".join(parts)
