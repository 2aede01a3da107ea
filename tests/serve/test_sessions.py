"""Signing in: what a session lends, to whom, and how long. The application is asked without sockets (guarded.py)."""

from __future__ import annotations

import asyncio
import json
import time
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.guarded import HOST, KEYS, ask, built, keys_file
from slmops.serve import keys, page, sessions
from slmops.serve.sessions import Sessions

pytestmark = needs("starlette")

NAME = "slmops-8080"


def scope(method: str = "GET", scheme: str = "http") -> dict[str, Any]:
    return {"type": "http", "method": method, "scheme": scheme}


def shown(number: str, **more: str) -> dict[bytes, str]:
    headers = {b"host": HOST, b"cookie": f"other=1; {NAME}={number}"}
    return headers | {name.replace("_", "-").encode(): value for name, value in more.items()}


def lends(store: Sessions, number: str, method: str = "GET", **more: str) -> bool:
    return b"authorization" in store.lent(scope(method), shown(number, **more))


def test_a_session_lends_its_key_to_our_own_page_alone() -> None:
    store = Sessions()
    number = store.open("the key")
    assert store.lent(scope(), shown(number))[b"authorization"] == "Bearer the key"
    own = f"http://{HOST}"
    for method, more, lent in (
        ("GET", {}, True),
        ("GET", {"sec_fetch_site": "same-origin"}, True),
        ("GET", {"sec_fetch_site": "none"}, True),
        ("GET", {"sec_fetch_site": "same-site"}, False),  # another port of this host
        ("GET", {"sec_fetch_site": "cross-site"}, False),
        ("GET", {"origin": "https://evil.example"}, False),
        ("POST", {}, False),
        ("POST", {"origin": own}, True),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://["}, False),
        ("POST", {"origin": f"{own}/"}, False),
        ("POST", {"origin": "http://127.0.0.1:9999"}, False),
        ("POST", {"origin": f"ftp://{HOST}"}, False),
        ("POST", {"origin": own, "sec_fetch_site": "cross-site"}, False),
        ("DELETE", {"sec_fetch_site": "same-origin"}, False),
    ):
        assert lends(store, number, method, **more) is lent, (method, more)
    # A key that is shown counts, whatever cookie comes with it.
    assert store.lent(scope(), shown(number, authorization="Bearer x"))[b"authorization"] == "Bearer x"
    assert b"authorization" not in store.lent(scope(), shown(number, x_api_key="x"))
    for wrong in (number[:-1], number + "x", "", "x" * 5000):
        assert not lends(store, wrong)
    assert b"authorization" not in store.lent(scope(), {b"host": HOST, b"cookie": f"{NAME}={number}; {NAME}=x"})


def test_sessions_are_bounded_in_number_and_time() -> None:
    now = [0.0]
    store = Sessions(lambda: now[0])
    first = [store.open("ann") for _ in range(sessions.MOST_OF_ONE + 3)]
    assert len(store) == sessions.MOST_OF_ONE and not lends(store, first[2]) and lends(store, first[3])
    for place in range(sessions.MOST + 10):
        store.open(f"key {place}")
    assert len(store) == sessions.MOST and not lends(store, first[-1])

    store = Sessions(lambda: now[0])
    used, unused = store.open("a"), store.open("b")
    now[0] = sessions.IDLE - 1
    assert lends(store, used)
    now[0] = sessions.IDLE + 1
    assert lends(store, used) and not lends(store, unused)
    while now[0] < sessions.LONGEST:
        assert lends(store, used)
        now[0] += sessions.IDLE / 2
    now[0] = sessions.LONGEST + 1
    assert not lends(store, used) and not len(store)


def test_signing_in_and_out(tmp_path: Path) -> None:
    """With the real guard: a key's own rights hold in its session, and end with it."""
    asked = built(keys_file(tmp_path))

    def answer(method: str, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, got, body = asyncio.run(ask(asked, method, path, named))
        return status, got, json.loads(body) if body and "json" in got.get("content-type", "") else None

    assert answer("GET", "/slmops/session")[0] == 401 and answer("POST", "/slmops/session")[0] == 401
    assert answer("POST", "/slmops/session", authorization="Bearer wrong")[0] == 401
    assert answer("POST", "/slmops/session", authorization=f"Bearer {KEYS['user']}", origin="https://evil.example")[0] == 403
    status, got, said = answer(
        "POST", "/slmops/session", authorization=f"Bearer {KEYS['operator']}", origin=f"http://{HOST}"
    )
    assert status == 201 and said["name"] == "operator" and "/slmops/registry" in said["sees"]
    cookie = SimpleCookie(got["set-cookie"])[NAME]
    assert cookie["httponly"] and cookie["samesite"].lower() == "strict" and cookie["path"] == "/" and not cookie["secure"]
    assert KEYS["operator"] not in str(got) and len(cookie.value) >= 43
    mine = {"cookie": f"{NAME}={cookie.value}"}
    assert answer("GET", "/slmops/session", **mine)[2]["session"] is True
    assert answer("GET", "/slmops/registry", **mine)[0] == 200
    assert answer("GET", "/slmops/registry", **mine, sec_fetch_site="cross-site")[0] in (401, 403)
    # Another session is not opened with a cookie, and who signs out must be our page.
    assert answer("POST", "/slmops/session", **mine, origin=f"http://{HOST}")[0] == 400
    assert answer("DELETE", "/slmops/session", **mine)[0] == 401
    assert answer("DELETE", "/slmops/session", **mine, origin=f"http://{HOST}")[0] == 204
    assert answer("GET", "/slmops/session", **mine)[0] == 401

    status, got, said = answer("POST", "/slmops/session", authorization=f"Bearer {KEYS['user']}")
    number = SimpleCookie(got["set-cookie"])[NAME].value
    mine = {"cookie": f"{NAME}={number}"}
    assert status == 201 and said["sees"] == []
    assert answer("GET", "/slmops/registry", **mine)[0] == 403 and answer("GET", "/v1/models", **mine)[0] == 200
    with keys.changing(tmp_path / "keys.yaml") as held:
        del held["user"]
    found = 200
    for _ in range(50):  # the file is looked at now and then
        if (found := answer("GET", "/v1/models", **mine)[0]) == 401:
            break
        time.sleep(0.1)
    assert found == 401


def test_the_cookie_is_for_tls_alone_where_there_is_tls() -> None:
    from starlette.responses import Response

    made = Response()
    where = {**scope(scheme="https"), "headers": [(b"host", b"models.example")]}
    sessions._keep(made, where, "number", 60)
    assert made.headers["set-cookie"].startswith("__Host-slmops=number;") and "Secure" in made.headers["set-cookie"]
    found = {b"host": "models.example", b"cookie": "__Host-slmops=number"}
    assert sessions._cookie(where, found) == "number" and sessions._cookie(scope(), found) is None


@pytest.mark.parametrize("path", ["/web/x/app.js", "/web/../access.py", "/web/x/..%2faccess.py", "/web//app.js", "/web/"])
def test_no_path_is_made_from_a_name(tmp_path: Path, path: str) -> None:
    status, _, body = asyncio.run(ask(built(keys_file(tmp_path)), "GET", path))
    assert status in (401, 404) and b"import" not in body


def test_files_come_from_the_table_alone() -> None:
    assert sum(len(file.packed) for file in page.table().values()) < 200_000
    assert len(page.table()) == len(list((Path(page.__file__).parent / "web").iterdir()))
    for own, file in page.table().items():
        status, got, body = asyncio.run(ask(built(None), "GET", own, {"accept-encoding": "gzip"}))
        assert status == 200 and body == file.packed and got["x-content-type-options"] == "nosniff"
        assert "unsafe" not in got["content-security-policy"] and "'none'" in got["content-security-policy"]
        assert ("immutable" in got["cache-control"]) is (own != "/")
        assert asyncio.run(ask(built(None), "GET", own, {"if-none-match": file.tag}))[0] == 304
