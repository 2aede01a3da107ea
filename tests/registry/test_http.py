"""The registry's HTTP client against servers that break, lie, and lead elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from faultserver import Fault, Reply, files, serve
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unreachable, Unsupported, UsageError
from slmops.registry import _http
from slmops.registry._http import Client, checked

CONTENT = os.urandom(3_000_000)


class Password:
    """A credential, and how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def header(self) -> str | None:
        return "Basic c2VjcmV0" if self.asked else None

    def challenged(self, challenges: list[str], sent: str | None) -> bool:
        assert challenges == ['Basic realm="x"']
        self.asked += 1
        return sent is None


def client(url: str, pauses: list[float] | None = None, password: Password | None = None) -> Client:
    return Client(url, password, pause=(pauses if pauses is not None else []).append)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/a", cut=1_000_000),
        Fault("GET", "/a", end=1_000_000),
        Fault("GET", "/a", times=3, cut=70_000),
        Fault("GET", "/a", times=3, reply=Reply(503)),
        Fault("GET", "/a", times=4, reply=Reply(429, {"Retry-After": "7"})),
    ],
)
def test_a_file_comes_whole_over_a_bad_line(tmp_path: Path, fault: Fault) -> None:
    pauses: list[float] = []
    came: list[int] = []
    with serve(files({"/a": CONTENT}), fault) as server, client(server.url, pauses) as http:
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT), came.append)
        assert (tmp_path / "a").read_bytes() == CONTENT and sum(came) == len(CONTENT)
        # The bytes that came before a cut are not asked for again; those in the air may be.
        assert sum(one.sent for one in server.asked) < len(CONTENT) + 1_000_000
    assert 0 < len(pauses) <= 4
    if fault.reply is not None and fault.reply.status == 429:
        assert min(pauses) >= 7


def test_a_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT[:2_500_000])
    with serve(files({"/a": CONTENT})) as server, client(server.url) as http:
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT))
        assert (tmp_path / "a").read_bytes() == CONTENT
        assert [one.headers["range"] for one in server.asked] == ["bytes=2500000-"] and server.asked[0].sent == 500_000
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT))
        assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_without_ranges_or_with_another_version_begins_anew(tmp_path: Path, ranges: bool) -> None:
    came: list[int] = []
    other = os.urandom(len(CONTENT))
    versions = [files({"/a": CONTENT}, ranges=ranges), files({"/a": other}, ranges=ranges, tag='"v2"')]
    fault = Fault("GET", "/a", cut=1_000_000)
    with serve(lambda asked: versions[len(server.asked) > 1](asked), fault) as server, client(server.url) as http:
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT), came.append)
    assert (tmp_path / "a").read_bytes() == other and sum(came) == len(CONTENT)


def test_a_line_that_trickles_is_taken_for_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "SLOW", (1 << 20, 0.5))  # the second time it comes faster, on a busy machine too
    pauses: list[float] = []
    with serve(files({"/a": CONTENT}), Fault("GET", "/a", seconds=0.02)) as server, client(server.url, pauses) as http:
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT))
        assert (tmp_path / "a").read_bytes() == CONTENT and len(pauses) == 1
        assert int(server.asked[1].headers["range"][6:-1]) > 16384


def test_patience_ends(tmp_path: Path) -> None:
    pauses: list[float] = []
    with serve(files({"/a": CONTENT}), Fault("GET", "/a", times=99, cut=100)) as server, client(server.url, pauses) as http:
        with pytest.raises(Unreachable, match="cannot be reached"):
            http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT))
        assert len(server.asked) == 5 and pauses == sorted(pauses)
        server.faults[:] = [Fault("GET", "/b", reply=Reply(503, {"Retry-After": "86400"}))]
        with pytest.raises(Unreachable, match="503") as told:
            http.request("GET", f"{server.url}/b")
        assert "86400 s" in told.value.cure
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with client("http://127.0.0.1") as http, pytest.raises(Unreachable):
        http.request("GET", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(404), SourceNotFound),
        (Reply(403), SourceNotFound),
        (Reply(400), Unsupported),
        (Reply(200, body=b"x" * 100), CorruptInput),
        (Reply(200, body=b"x" * (len(CONTENT) + 1)), CorruptInput),
        (Reply(200, {"Content-Encoding": "gzip"}, b"x" * len(CONTENT)), CorruptInput),
        (Reply(206, {"Content-Range": "bytes 5-6/7"}, b"xx"), CorruptInput),
        (Reply(206, {"Content-Range": f"bytes 5-6/{len(CONTENT)}"}, b"xx"), CorruptInput),
        (Reply(206, {}, b"xx"), CorruptInput),
    ],
)
def test_answers_that_are_none(tmp_path: Path, reply: Reply, kind: type[SlmopsError]) -> None:
    with serve(lambda _: reply) as server, client(server.url) as http, pytest.raises(kind):
        http.append(f"{server.url}/a", tmp_path / "a", len(CONTENT))


def test_answers_are_bounded() -> None:
    with serve(lambda _: Reply(body=b"[" * 5000)) as server, client(server.url) as http:
        with pytest.raises(CorruptInput, match="more than 1,000 bytes"):
            http.request("GET", server.url, most=1000)
        with pytest.raises(CorruptInput, match="not JSON"):
            http.request("GET", server.url).json()


def test_credentials_go_to_their_host_only(tmp_path: Path) -> None:
    with serve(files({"/far": CONTENT})) as far:

        def answer(asked: object) -> Reply:
            if "authorization" not in asked.headers:  # type: ignore[attr-defined]
                return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
            return Reply(307, {"Location": f"{far.url}/far"})

        password = Password()
        with serve(answer) as near, client(near.url, password=password) as http:
            assert http.request("GET", f"{near.url}/a").body == CONTENT
            http.append(f"{near.url}/a", tmp_path / "a", len(CONTENT))
            assert password.asked == 1 and near.asked[-1].headers["authorization"] == "Basic c2VjcmV0"
            assert not any("authorization" in one.headers for one in far.asked) and len(far.asked) == 2
            # Another port is another host, asked straight too.
            assert http.request("GET", f"{far.url}/far").body == CONTENT
            assert "authorization" not in far.asked[-1].headers


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/", "https://", "//user:word@127.0.0.1/", "http://a\\b/", "/loop"]
)
def test_redirects_that_lead_nowhere(location: str) -> None:
    with serve(lambda _: Reply(302, {"Location": location})) as server, client(server.url) as http:
        with pytest.raises(CorruptInput, match="redirects"):
            http.request("GET", f"{server.url}/loop")
        assert len(server.asked) == (6 if location == "/loop" else 1)


def test_https_never_falls_to_http() -> None:
    with pytest.raises(CorruptInput, match="from https"):
        _http._moved("GET", "https://a/x", "http://a/x", 1, 302)
    assert _http._moved("GET", "http://a/x", "https://b/y", 1, 302) == "https://b/y"
    with pytest.raises(Unsupported):
        _http._moved("PUT", "https://a/x", "https://a/y", 1, 301)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://", "https://user:word@host/", "http://a b/", "//host", "host", "http://[/"]
)
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(UsageError):
        checked(url)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: certificates are NOT tested")
def test_certificates_are_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serve(lambda _: Reply(body=b"{}"), certificate=context) as server:
        with client(server.url) as http, pytest.raises(Unreachable, match="not trusted") as told:
            http.request("GET", server.url)
        assert "SSL_CERT_FILE" in told.value.cure and server.asked == []
        script = (
            "import sys; from slmops.registry._http import Client; print(Client(sys.argv[1]).request('GET', sys.argv[1]))"
        )
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        done = subprocess.run(
            [sys.executable, "-c", script, server.url], capture_output=True, text=True, env=environment, timeout=60
        )
        assert "status=200" in done.stdout, done.stderr
