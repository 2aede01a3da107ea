"""What verbs ask of a server, against servers that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slmops.cli import _remote, main
from slmops.core.errors import CorruptInput, Unreachable, UsageError

KEY = "slm_a-key-that-is-for-one-server-alone"


@contextlib.contextmanager
def answering(answer: Callable[[Any], None]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server, and the headers of what it was asked."""
    heard: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append({name.lower(): value for name, value in self.headers.items()})
            answer(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()


def said(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_key_goes_to_the_server_that_was_named_and_no_further(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(_remote.KEY, KEY)
    with (
        answering(said(200, b"[]")) as (other, heard),
        answering(said(302, Location=f"{other}/slmops/models")) as (url, sent),
    ):
        assert main(["ps", "--url", url]) == UsageError.exit_code
        assert main(["chat", url]) == UsageError.exit_code
        assert "302" in capsys.readouterr().err
        assert len(sent) == 2 and all(one["authorization"] == f"Bearer {KEY}" for one in sent)
        assert heard == []
        assert main(["ps", "--url", other]) == 0 and len(heard) == 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (said(200, b"<html>"), CorruptInput),
        (said(200, b'{"data": []}'), CorruptInput),
        (said(200, b"[1, 2]"), CorruptInput),
        (said(200, b"\xff\xfe"), CorruptInput),
        (said(200, b"[", length=1000), CorruptInput),
        (said(503, b'{"error": {"message": "loading"}}'), Unreachable),
    ],
)
def test_what_is_no_answer_is_told_as_such(
    answer: Callable[[Any], None], fault: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as (url, _):
        for words in ([], ["--json"]):
            assert main(["ps", "--url", url, *words]) == fault.exit_code
            assert not capsys.readouterr().out
        assert main(["chat", url]) == fault.exit_code
    assert main(["ps", "--url", "file:///etc/passwd"]) == UsageError.exit_code
