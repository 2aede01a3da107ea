"""The first moments of a server: health is answered, everything else waits, and what goes wrong is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve import guarded

pytestmark = needs("starlette", "uvicorn")

HEAVY = ("numpy", "pydantic", "prometheus_client", "yaml", "psutil", "slmops.run", "slmops.registry", "slmops.serve.app")
"""What takes long to import, and is not needed to say that the server is alive."""


@contextlib.asynccontextmanager
async def beginning(load: Callable[[], Any], failed: Callable[[BaseException], None]) -> AsyncIterator[Any]:
    """A server that begins, as uvicorn runs it: its lifespan in a task, until the block ends."""
    from slmops.serve.access import Access
    from slmops.serve.starting import Starting

    made = Starting(Access(frozenset({"127.0.0.1"})), load, failed)
    messages, said = asyncio.Queue[dict[str, str]](), asyncio.Queue[Any]()
    life = asyncio.create_task(made({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, messages.get, said.put))
    messages.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    try:
        yield made
    finally:
        messages.put_nowait({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await life


def test_health_is_answered_while_the_rest_is_read_and_other_requests_wait(tmp_path: Path) -> None:
    go = threading.Event()

    def load() -> Any:
        assert go.wait(30)
        return guarded.built(guarded.keys_file(tmp_path))

    async def session() -> None:
        async with beginning(load, lambda fault: pytest.fail(repr(fault))) as app:
            waiting = asyncio.create_task(guarded.ask(app, "GET", "/v1/models"))
            for path, status in (("live", 200), ("ready", 503), ("startup", 503)):
                code, headers, body = await guarded.ask(app, "GET", f"/health/{path}")
                assert (code, headers["cache-control"]) == (status, "no-store") and body
                assert headers["x-request-id"] and headers["x-content-type-options"] == "nosniff"
            assert (await guarded.ask(app, "GET", "/health/live", host="evil.example"))[0] == 403
            assert (await guarded.ask(app, "GET", "/health/none"))[0] == 503
            await asyncio.sleep(0.1)
            assert not waiting.done()
            go.set()
            assert (await waiting)[0] == 401  # by the whole application: it asks for a key
            key = {"Authorization": f"Bearer {guarded.KEYS['user']}"}
            assert (await guarded.ask(app, "GET", "/v1/models", key))[0] == 200
            for path in ("live", "ready", "startup"):
                assert (await guarded.ask(app, "GET", f"/health/{path}"))[0] == 200

    asyncio.run(session())


def test_who_waits_for_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def load() -> Any:
        time.sleep(0.1)
        raise ValueError("a defect")

    async def session() -> None:
        async with beginning(load, faults.append) as app:
            code, headers, _ = await asyncio.wait_for(guarded.ask(app, "GET", "/v1/models"), 30)
            assert code == 503 and headers["retry-after"] == "1"

    asyncio.run(session())
    assert [str(one) for one in faults] == ["a defect"]


def test_the_end_does_not_wait_for_the_beginning() -> None:
    go = threading.Event()

    async def session() -> None:
        async with beginning(go.wait, lambda fault: pytest.fail(repr(fault))) as app:  # type: ignore[arg-type]
            assert (await guarded.ask(app, "GET", "/health/live"))[0] == 200

    began = time.monotonic()
    asyncio.run(session())
    assert time.monotonic() - began < 5
    go.set()


def test_what_takes_long_to_import_is_not_needed_for_it() -> None:
    script = (
        "import sys, uvicorn\nfrom slmops.cli import main, serve\nfrom slmops.serve import logs, starting\n"
        f"from slmops.serve.connection import Connection\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_real_server_is_alive_before_its_application_is_imported(tmp_path: Path) -> None:
    """Something that the application needs takes longer to import than anyone waits."""
    (tmp_path / "pydantic.py").write_text("import time\n\ntime.sleep(600)\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slmops", "serve", "--port", str(port)]
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "SLMOPS_HOME": str(tmp_path / "home")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert _first(port) == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def _first(port: int) -> int:
    until = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as asked:
                asked.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                return int(asked.recv(100).split()[1])
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.slow
def test_a_wrong_command_line_ends_it_with_its_code(tmp_path: Path) -> None:
    for words, code in (
        (("none:v1",), 3),
        (("--config", str(tmp_path / "none.yaml")), 3),
        (("--alias", "x"), 2),
        (("--host", "0.0.0.0"), 2),
    ):
        command = [sys.executable, "-m", "slmops", "serve", *words, "--port", "0"]
        environment = {**os.environ, "SLMOPS_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == code and "Traceback" not in done.stderr and done.stderr.startswith("slmops: "), done
        assert not done.stdout
