"""Who is let in: keys, their file, hosts, pages of other places, bodies, and clients that are slow on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from slmops.cli import main
from slmops.core.errors import CorruptInput, PolicyRefused, SourceNotFound

pytestmark = needs("starlette", "uvicorn")


def asked(app: Any, method: str, target: str, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any, Any]:
    from serve import guarded

    return asyncio.run(guarded.ask(app, method, target, headers, **more))


@pytest.fixture
def app(tmp_path: Path) -> Any:
    from serve import guarded

    return guarded.built(guarded.keys_file(tmp_path))


# Keys


def test_a_key_is_taken_in_either_header_and_nothing_like_it(app: Any) -> None:
    from serve.guarded import EXPIRED, KEYS

    key = KEYS["user"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key} "}, {"X-Api-Key": key}):
        assert asked(app, "GET", "/v1/models", headers)[0] == 200, headers
    for headers in (
        {}, {"Authorization": key}, {"Authorization": f"Basic {key}"}, {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer {key[:-1]}"}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {EXPIRED}"},
        {"Authorization": "Bearer x", "X-Api-Key": key}, {"Authorization": "Bearer \u00ff\u00e9"}, {"X-Api-Key": ""},
        {"Cookie": f"key={key}"}, {"Authorization": f"Bearer {key}, Bearer {key}"}, {"X-Api-Key": "x" * 9000},
    ):  # fmt: skip
        status, sent, body = asked(app, "GET", "/v1/models", headers)
        assert status == 401 and sent["www-authenticate"] == "Bearer" and "invalid_api_key" in body.decode(), headers
    assert asked(app, "GET", f"/v1/models?key={key}&api_key={key}")[0] == 401


def test_the_hash_of_a_key_is_no_key(app: Any, tmp_path: Path) -> None:
    from serve.guarded import KEYS
    from slmops.serve import keys

    text = (tmp_path / "keys.yaml").read_text()
    assert not any(key in text for key in KEYS.values()) and keys.mark(KEYS["admin"]) in text
    assert asked(app, "GET", "/v1/models", {"Authorization": f"Bearer {keys.mark(KEYS['admin'])}"})[0] == 401


def test_every_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries are looked at, whichever it is."""
    import hmac

    from serve import guarded
    from slmops.serve import keys

    live, counts, real = keys.Keys(guarded.keys_file(tmp_path)), list[int](), hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: counts.append(1) or real(a, b))
    found = set()
    for key in (*guarded.KEYS.values(), "none"):
        counts.clear()
        asyncio.run(live.of(key))
        found.add(len(counts))
    assert len(found) == 1 and found.pop() >= 5


def test_the_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    from serve import guarded
    from slmops.serve import keys

    file = guarded.keys_file(tmp_path)
    app = guarded.built(file)
    user = {"Authorization": f"Bearer {guarded.KEYS['user']}"}
    assert asked(app, "GET", "/v1/models", user)[0] == 200
    assert main(["keys", "revoke", "user", "--keys", str(file)]) == 0
    assert asked(app, "GET", "/v1/models", user)[0] == 401
    good = file.read_text()
    for broken in ("keys: {", "", "keys: {a: {role: admin}}", "other: 1"):
        file.write_text(broken)
        assert asked(app, "GET", "/v1/models", user)[0] == 401
        assert asked(app, "GET", "/slmops/models", {"X-Api-Key": guarded.KEYS["admin"]})[0] == 200, broken
    file.unlink()
    assert asked(app, "GET", "/slmops/models", {"X-Api-Key": guarded.KEYS["admin"]})[0] == 200
    file.write_text(good)
    file.chmod(0o600)
    with keys.changing(file) as found:
        found["back"] = dataclasses.replace(found["admin"], sha256=keys.mark(guarded.KEYS["user"]))
    assert asked(app, "GET", "/slmops/models", user)[0] == 200


def test_the_verbs_of_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from slmops.serve import keys

    file = tmp_path / "k" / "keys.yaml"
    file.parent.mkdir()
    words = ["--keys", str(file)]
    more = ["--models", "home*", "--tokens-per-day", "1000", "--expires", "2099-01-31", "--json"]
    assert main(["keys", "create", "ann", *words, *more]) == 0
    made = json.loads(capsys.readouterr().out)["key"]
    assert len(made) > 43 and made.startswith("slm_")
    found = keys.read(file)["ann"]
    assert found.sha256 == keys.mark(made) and found.caller.models == ("home*",)
    assert found.caller.limits.tokens_per_day == 1000 and found.expires == 4073500800.0  # date -ud 2099-01-31 +%s
    assert file.stat().st_mode & 0o777 == 0o600 or os.name == "nt"
    assert main(["keys", "create", "ann", *words]) == 12
    assert main(["keys", "create", "a/b", *words]) == 2
    assert main(["keys", "create", "b", *words, "--concurrent", "0"]) == 2
    assert main(["keys", "create", "b", *words, "--expires", "soon"]) == 2
    capsys.readouterr()
    assert main(["keys", "rotate", "ann", *words, "--grace", "1h"]) == 0
    second = capsys.readouterr().out.strip()
    live = keys.Keys(file)
    assert all(asyncio.run(live.of(key)) for key in (made, second))
    assert main(["keys", "rotate", "ann", *words]) == 0
    third = capsys.readouterr().out.strip()
    assert [bool(asyncio.run(live.of(key))) for key in (made, second, third)] == [False, False, True]
    assert main(["keys", "list", *words, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "ann" and listed["holds"] and third not in json.dumps(listed)
    assert main(["keys", "revoke", "bob", *words]) == 3
    assert main(["keys", "revoke", "ann", *words]) == 0
    assert main(["keys", "list", "--keys", str(tmp_path / "none")]) == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("keys:\n  ann: {role: root, sha256: HASH}", "role"),
        ("keys:\n  ann: {sha256: HASH}", "role"),
        ("keys:\n  ann: {role: user}", "sha256 or subject"),
        ("keys:\n  ann: {role: user, sha256: a-key-itself}", "64 hexadecimal"),
        ("keys:\n  ann: {role: user, sha256: HASH, colour: red}", "colour"),
        ("keys:\n  ann: {role: user, sha256: HASH, requests_per_minute: -1}", "above 0"),
        ("keys:\n  ann: {role: user, sha256: HASH, concurrent: true}", "above 0"),
        ("keys:\n  ann: {role: user, sha256: HASH, models: home}", "list"),
        ("keys:\n  ann: {role: user, sha256: HASH, expires: tomorrow}", "date"),
        ("keys:\n  a b: {role: user, sha256: HASH}", "letters"),
        ("keys:\n  ann: {role: user, sha256: HASH}\n  bob: {role: user, sha256: HASH}", "two names"),
        ("keys:\n  ann: {role: user, sha256: HASH}\n  ann: {role: user, sha256: HASH}", "twice"),
        ("keys:\n  ann: &a {role: user, sha256: HASH}", "anchors"),
        ("keys: [1]", "keys:"),
        ("a-key-a-line-of-former-times", "keys:"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_by_its_line(tmp_path: Path, text: str, fault: str) -> None:
    from slmops.serve import keys

    (tmp_path / "keys").write_text(text.replace("HASH", "ab" * 32) + "\n")
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(CorruptInput, match=fault):
        keys.read(tmp_path / "keys")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    from serve import guarded
    from slmops.serve import keys

    file = guarded.keys_file(tmp_path)
    file.chmod(0o644)
    keys.read(file)
    file.chmod(0o660)
    with pytest.raises(PolicyRefused, match="others can write"):
        keys.Keys(file)
    with pytest.raises(SourceNotFound):
        keys.Keys(tmp_path / "none")


# Places


def test_ones_own_machine_and_everything_else() -> None:
    from serve import guarded

    here, open_to_all = guarded.built(None), guarded.built(None, own=False)
    assert asked(here, "GET", "/slmops/models")[0] == 200
    assert asked(here, "GET", "/slmops/models", {"Authorization": "Bearer none is asked for"})[0] == 200
    for passed_on in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert asked(here, "GET", "/slmops/models", {passed_on: "1"})[0] == 403, passed_on
        assert asked(here, "GET", "/v1/models", {passed_on: "1"})[0] == 200
    assert asked(open_to_all, "GET", "/slmops/models")[0] == 403 and asked(open_to_all, "GET", "/v1/models")[0] == 200


def test_pages_of_other_places_are_refused_even_on_ones_own_machine() -> None:
    from serve import guarded

    listed = "https://chat.example.org"
    app, more = guarded.built(None), guarded.built(None, origins=frozenset({listed}))
    own = f"http://{guarded.HOST}"
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/health/live")):
        assert asked(app, method, path, {"Origin": own})[0] in (200, 400)
        others = ("https://evil.example", "null", f"https://{guarded.HOST}", "http://127.0.0.1:9", own + ".evil.example")
        for origin in (*others, listed):
            assert asked(app, method, path, {"Origin": origin})[0] == 403, origin
        assert asked(more, method, path, {"Origin": listed})[0] in (200, 400)
        assert asked(more, method, path, {"Origin": listed + ".evil.example"})[0] == 403
    for site, mode, path, status in (
        ("cross-site", "no-cors", "/slmops/models", 403), ("same-site", "cors", "/v1/models", 403),
        ("cross-site", "navigate", "/slmops/models", 403), ("cross-site", "navigate", "/health/live", 200),
        ("none", "navigate", "/v1/models", 200), ("same-origin", "cors", "/v1/models", 200),
    ):  # fmt: skip
        assert asked(app, "GET", path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})[0] == status, (site, mode)


def test_preflights_are_answered_for_listed_pages_alone(tmp_path: Path) -> None:
    from serve import guarded

    listed = "https://chat.example.org"
    app = guarded.built(guarded.keys_file(tmp_path), origins=frozenset({listed}))
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    status, sent, _ = asked(app, "OPTIONS", "/v1/chat/completions", {"Origin": listed, **wanted})
    assert (
        status == 200
        and sent["access-control-allow-origin"] == listed
        and "x-stainless-os" in sent["access-control-allow-headers"]
    )
    assert "access-control-allow-credentials" not in sent
    for origin in ("https://evil.example", "null", "*"):
        status, sent, _ = asked(app, "OPTIONS", "/v1/chat/completions", {"Origin": origin, **wanted})
        assert status in (400, 403) and "access-control-allow-origin" not in sent, origin
    status, sent, _ = asked(app, "GET", "/v1/models", {"Origin": listed})
    assert status == 401 and sent["access-control-allow-origin"] == listed  # so that the page can say why
    without = guarded.built(None)
    assert asked(without, "OPTIONS", "/v1/chat/completions", {"Origin": listed, **wanted})[0] == 403


def test_every_answer_says_what_a_browser_may_do_with_it(app: Any) -> None:
    for method, path in (("GET", "/health/live"), ("GET", "/v1/models"), ("GET", "/none"), ("PUT", "/health/live")):
        _, sent, _ = asked(app, method, path)
        assert sent["x-content-type-options"] == "nosniff" and sent["x-frame-options"] == "DENY"
        assert "default-src 'none'" in sent["content-security-policy"] and sent["cache-control"] == "no-store"
        assert not {"access-control-allow-origin", "server", "x-powered-by"} & set(sent)


# Bodies


def test_bodies_are_bounded_in_size_and_depth(app: Any) -> None:
    from serve.guarded import KEYS

    key = {"X-Api-Key": KEYS["user"]}
    deep = b'{"model":' + b"[" * 100 + b"]" * 100 + b"}"
    status, _, body = asked(app, "POST", "/v1/chat/completions", key, body=deep)
    assert status == 400 and b"too_deep" in body
    assert asked(app, "POST", "/v1/chat/completions", key, body=b"x" * ((1 << 20) + 1))[0] == 413
    for length in ("-1", "1e9", "99999999999999999999", " 5", "0x10", "\u0663"):
        headers = {**key, "Content-Length": length.encode("utf-8").decode("latin-1")}
        assert asked(app, "POST", "/v1/chat/completions", headers)[0] == 413, length
    assert asked(app, "POST", "/v1/chat/completions", {**key, **{f"x-{i}": "1" for i in range(120)}})[0] == 431
    assert asked(app, "GET", "/" + "x" * 5000, key)[0] == 414
    assert asked(app, "GET", "/v1/models?" + "x" * 5000, key)[0] == 414


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        (b"[" * 64 + b"]" * 64, 64), (b'{"a":' * 63 + b"[]" + b"}" * 63, 64), (b'"' + b"[" * 500 + b'"', 0),
        (b'["\\"' + b"[" * 500 + b'"]', 1), (b'["\\\\", ' + b"[" * 80 + b"]" * 80 + b"]", 81), (b"[]" * 500, 1),
        (b'["\\\\\\"' + b"{" * 300 + b'"]', 1), (b"[" * 65 + b"]" * 65, 65),
    ],
)  # fmt: skip
def test_depth_is_counted_outside_of_texts(body: bytes, depth: int) -> None:
    from slmops.serve.access import deeper

    for bound in (1, 63, 64, 65, 80, 81):
        # The bodies that have few brackets altogether are let pass at once.
        assert deeper(body, bound) == (depth > bound), bound


def test_counting_depth_takes_no_time_that_a_stranger_chooses() -> None:
    from slmops.serve.access import deeper

    for body in (
        b"[" * (1 << 20),
        b'"\\"' * (1 << 18),
        b'\\"' * (1 << 19),
        b"[]{}" * (1 << 18),
        b'"' * (1 << 20) + b"[" * 99,
    ):
        began = time.process_time()
        deeper(body, 64)
        assert time.process_time() - began < 0.5


# Clients that are slow on purpose, over real sockets


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Any]]:
    """The application with one more route, which answers with much; patience is short here."""
    import uvicorn
    from starlette.responses import StreamingResponse

    from serve import guarded
    from slmops.serve import access, connection

    held = pytest.MonkeyPatch()
    held.setattr(connection, "HEAD_SECONDS", 0.5)
    held.setattr(connection, "DRAIN_SECONDS", 0.5)
    held.setattr(access, "BODY_SECONDS", 0.5)
    app = guarded.built(None)

    async def much(_: Any) -> Any:
        async def pieces() -> Any:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)  # as an engine lets others run
            finally:
                app.state.ended = time.monotonic()

        return StreamingResponse(pieces())

    next(route for route in app.routes if route.path == "/v1/models").app = _plain(much)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        own = connection.Connection
        server = uvicorn.Server(uvicorn.Config(app, http=own, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        yield bound.getsockname()[1], (server, app)
        server.should_exit = True
        thread.join(10)
    held.undo()


def _plain(answer: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await answer(scope))(scope, receive, send)

    return app


def said(port: int, *parts: bytes, pause: float = 0.0, most: float = 5.0) -> tuple[bytes, float]:
    """What comes back until the server closes, and after how long."""
    with socket.create_connection(("127.0.0.1", port), timeout=most) as one:
        began, got = time.monotonic(), b""
        with contextlib.suppress(OSError):
            for part in parts:
                one.sendall(part)
                time.sleep(pause)
        with contextlib.suppress(OSError):
            while more := one.recv(65536):
                got += more
        return got, time.monotonic() - began


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("parts", "pause", "answer"),
    [
        ((), 0, b""),
        ((HEAD,), 0, b""),
        (tuple(HEAD[i : i + 1] for i in range(40)), 0.05, b""),
        ((HEAD + b"X: " + b"y" * 100_000,), 0, b""),
        ((HEAD + b"Content-Length: 100\r\n\r\n{",), 0, b"408"),
        ((HEAD + b"Content-Length: 100\r\n\r\n", *[b"{"] * 40), 0.05, b"408"),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 40), 0.05, b"408"),
        ((b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", *[b"G"] * 30), 0.05, b"200"),
    ],
)
def test_who_dawdles_is_cut(listening: tuple[int, Any], parts: tuple[bytes, ...], pause: float, answer: bytes) -> None:
    port, (server, _) = listening
    got, seconds = said(port, *parts, pause=pause)
    assert seconds < 4.9 and got[9:12] in (answer, answer or b"400"), got[:100]  # said() waits for 5
    deadline = time.monotonic() + 5
    while server.server_state.tasks and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.server_state.tasks


def test_who_does_not_read_is_cut_and_the_place_is_free(listening: tuple[int, Any]) -> None:
    port, (server, app) = listening
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline and not (hasattr(app.state, "ended") and not server.server_state.tasks):
            time.sleep(0.05)
        assert hasattr(app.state, "ended") and not server.server_state.tasks and not server.server_state.connections


def test_a_refusal_reaches_who_still_sends(listening: tuple[int, Any]) -> None:
    """A body that is too large is let pass for a while; then the connection ends."""
    port, _ = listening
    length = 3 << 20
    again = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    got, _ = said(port, HEAD + b"Content-Length: %d\r\n\r\n" % length, b"x" * length, again)
    assert got.startswith(b"HTTP/1.1 413") and b"HTTP/1.1 200" in got
    got, seconds = said(port, HEAD + b"Content-Length: 999999999\r\n\r\n", *[b"x" * (1 << 20)] * 60)
    assert got[9:12] in (b"413", b"") and seconds < 4


def test_a_server_is_asked_under_the_address_that_it_listens_on() -> None:
    """An address of IPv6 stands in brackets in URLs and so in the Host header (RFC 3986, 3.2.2)."""
    import argparse

    from slmops.cli import _access, serve

    parser = argparse.ArgumentParser()
    serve.add(parser)
    for host, asked in (("fd00::5", "[fd00::5]"), ("10.0.0.7", "10.0.0.7"), ("Box.Example", "box.example")):
        found = _access.access(parser.parse_args(["--host", host, "--insecure"]))
        assert asked in found.hosts
