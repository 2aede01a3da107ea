"""Every route of the application x every role x hostile paths, methods, hosts and headers. All of it is made from the
application's own table of routes: a route that comes later is in it."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from needs import needs

pytestmark = needs("starlette", "uvicorn")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PURGE")
LOCAL = ("127.0.0.1:8080", "localhost")
HOSTS = (*LOCAL, "evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1]", None)
HOSTILE = (
    {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
    },
    {"X-HTTP-Method-Override": "GET", "X-Method-Override": "GET", "X-HTTP-Method": "GET"},
    {"X-Original-URL": "/health/live", "X-Rewrite-URL": "/health/live", "X-Forwarded-Prefix": "/health/live"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
)


def spellings(path: str) -> list[str]:
    """A path, and others that some servers take for it."""
    middle = path.replace("/", "//", 1).replace("/", "/", 1)
    encoded = path[:2] + f"%{ord(path[2]):02x}" + path[3:] if len(path) > 2 else "%2f"
    return [
        path, middle, path + "/", path + "//", "/." + path, "/x/.." + path, "/%2e%2e" + path, "/%2e" + path, path + "/.",
        path + "/..", path + "/../../health/live", "/health/live/.." + path, "/health/live/%2e%2e" + path, encoded,
        path + ";a=b", "/;a=b" + path, path.upper(), path + "%00", "/%00" + path, path + "%0a", path + "%20",
        path + "?a=/health/live",
        path + "#/health/live", path.replace("/", "\\"), path.replace("/", "%2f"), "http://127.0.0.1:8080" + path,
        "http://evil.example" + path, "//evil.example" + path, "*", "/health/live#" + path, "/health/live?" + path,
        "/" + path.lstrip("/").replace("/", "/./"), path + "%c0%af", path + "\u00ff",
    ]  # fmt: skip


def plainly(route: Any) -> str:
    """A path that a route takes."""
    return re.sub(r"\{[^}]*\}", "x", str(route.path))


def methods(route: Any) -> list[str]:
    """Of a route; a folder of files is read."""
    return sorted(getattr(route, "methods", None) or {"GET", "HEAD"})


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[tuple[str, str, str]]]:
    """The application, whose routes say that they were reached in place of what they do, some of which ends servers."""
    from serve import guarded

    app, reached = guarded.built(guarded.keys_file(tmp_path_factory.mktemp("matrix"))), []

    def instead(path: str) -> Any:
        async def reach(scope: Any, receive: Any, send: Any) -> None:
            reached.append((scope["method"], path, scope["slmops.caller"].role))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return reach

    for route in app.routes:
        route.app = instead(route.path)
    return app, reached


@pytest.mark.slow
def test_every_route_every_role_every_spelling(watched: tuple[Any, list[tuple[str, str, str]]]) -> None:
    from serve import guarded
    from slmops.serve import rights

    app, reached = watched
    callers = [*guarded.KEYS.items(), ("nobody", None), ("wrong", "slm_" + "y" * 43), ("expired", guarded.EXPIRED)]
    asked, statuses = 0, Counter[int]()

    async def one(
        route: Any, method: str, spelled: str, who: str, key: str | None, host: str | None, more: dict[str, str]
    ) -> None:
        nonlocal asked
        asked += 1
        reached.clear()
        headers = {**more, **({"Authorization": f"Bearer {key}"} if key else {})}
        status, _, _ = await guarded.ask(app, method, spelled, headers, host=host)
        statuses[status] += 1
        assert status in (200, 401, 403, 404, 405), (status, method, spelled)
        known = who in guarded.ROLES
        if reached:
            ((ran, path, _),) = reached
            level = rights.least(ran, path)
            assert ran == method and (level == "open" or (known and who in rights.MAY[level])), (method, spelled, who, path)
            assert host in LOCAL and "evil" not in more.get("Origin", "")
            assert more.get("Origin") != "null" and "Sec-Fetch-Site" not in more
        elif not known and host in LOCAL and not {"Origin", "Sec-Fetch-Site"} & set(more):
            assert status == 401, (status, method, spelled)  # not even that there is nothing
        # What is meant for this server and allowed gets there.
        if spelled == plainly(route) and host == HOSTS[0] and not more and method in methods(route):
            took = next(one for one in app.routes if one.matches(guarded.scope(method, spelled, []))[0].name == "FULL")
            level = rights.least(method, took.path)
            allowed = level == "open" or (known and who in rights.MAY[level])
            assert bool(reached) == allowed and status == (200 if allowed else 403 if known else 401), (method, spelled, who)

    async def all_of() -> None:
        for route in app.routes:
            plain = plainly(route)
            for method, spelled, (who, key) in itertools.product(METHODS, spellings(plain), callers):
                await one(route, method, spelled, who, key, HOSTS[0], {})
            own = methods(route)
            for method, host, (who, key) in itertools.product(own, HOSTS, callers):
                await one(route, method, plain, who, key, host, {})
            for method, more, (who, key) in itertools.product(own, HOSTILE, callers):
                await one(route, method, plain, who, key, HOSTS[0], more)

    asyncio.run(all_of())
    assert asked > 1500 * len(app.routes) and statuses[200] > 0
    print(f"{len(app.routes)} routes, {asked} requests, {dict(statuses)}")


def test_no_route_tells_of_models_that_a_key_may_not_use(made: Path, tmp_path: Path) -> None:
    """A name that is there and one that is not are answered alike, and none is listed."""
    import json

    from serve import guarded
    from slmops.serve import keys, rights
    from slmops.serve.names import Entry
    from slmops.serve.request import Caller

    ann, said = f"slm_ann-{'x' * 40}", "hi"
    file = guarded.keys_file(tmp_path, ann=keys.Key(Caller("ann", "user", ("home*",)), keys.mark(ann)))
    app = guarded.built(file, [Entry("home", made / "gguf"), Entry("secret", made / "gguf")])
    chat = [{"role": "user", "content": said}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": chat}, "/v1/completions": {"prompt": said}, "/v1/embeddings": {"input": said},
        "/v1/responses": {"input": said}, "/v1/messages": {"messages": chat, "max_tokens": 2},
        "/v1/messages/count_tokens": {"messages": chat}, "/api/chat": {"messages": chat}, "/api/generate": {"prompt": said},
        "/api/embed": {"input": said}, "/api/embeddings": {"prompt": said}, "/api/show": {},
    }  # fmt: skip
    tried = 0

    async def asked(method: str, path: str, name: str) -> tuple[int, str]:
        body = json.dumps({"model": name, **bodies.get(path, {})}).encode() if method == "POST" else b""
        headers = {"X-Api-Key": ann, "Content-Type": "application/json"}
        status, _, got = await guarded.ask(app, method, re.sub(r"\{[^}]*\}", name, path), headers, body)
        return status, re.sub(r"req_[0-9a-f]+", "", got.decode().replace(name, "NAME"))

    async def all_of() -> None:
        nonlocal tried
        for route in app.routes:
            for method in methods(route):
                if rights.least(method, route.path) == "user" and method != "HEAD" and "session" not in route.path:
                    there, absent = [await asked(method, route.path, name) for name in ("secret", "absent")]
                    assert there == absent and "secret" not in absent[1], (method, route.path, there, absent)
                    assert route.path not in bodies or there[0] == 403, (route.path, there)
                    tried += 1

    asyncio.run(all_of())
    assert tried >= 8


def test_a_route_that_nobody_thought_of_is_for_admins_alone(tmp_path: Path) -> None:
    from starlette.responses import Response
    from starlette.routing import Route, WebSocketRoute

    from serve import guarded
    from slmops.serve.access import Access, Guard
    from slmops.serve.keys import Keys

    async def secret(_: Any) -> Response:
        return Response("reached")

    route = Route("/forgotten/{name:path}", secret, methods=["GET"])
    access = Access(frozenset({"127.0.0.1"}), Keys(guarded.keys_file(tmp_path)))
    guard = Guard(route.app, access, [route], lambda _, problem: problem.said)
    for role, key in guarded.KEYS.items():
        status = asyncio.run(guarded.ask(guard, "GET", "/forgotten/x", {"Authorization": f"Bearer {key}"}))[0]
        assert status == (200 if role == "admin" else 403), role
    assert asyncio.run(guarded.ask(guard, "GET", "/forgotten/x"))[0] == 401
    with pytest.raises(TypeError):
        Guard(route.app, Access(frozenset()), [WebSocketRoute("/x", secret)], lambda _, problem: problem.said)


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("GET", "/health/live", {"admin", "operator", "user", "metrics", "nobody"}),
        ("GET", "/v1/models", {"admin", "operator", "user"}),
        ("POST", "/v1/chat/completions", {"admin", "operator", "user"}),
        ("GET", "/slmops/models", {"admin", "operator"}),
        ("GET", "/metrics", {"admin", "operator", "metrics"}),
        ("POST", "/api/pull", {"admin", "operator"}),
        ("DELETE", "/api/delete", {"admin"}),
        ("POST", "/api/push", {"admin"}),
        ("POST", "/shutdown", {"admin"}),
        ("PUT", "/v1/models/{name}", {"admin"}),
    ],
)
def test_the_table_says_what_was_decided(method: str, path: str, roles: set[str]) -> None:
    """Written out here once more, so that a slip in the table is seen."""
    from serve import guarded
    from slmops.serve import rights

    level = rights.least(method, path)
    assert {role for role in guarded.ROLES if role in rights.MAY[level]} | (
        {"nobody"} if level == "open" else set()
    ) == roles
