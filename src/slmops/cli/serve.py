"""slmops serve: models behind an OpenAI-compatible port."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from slmops.cli import _access, _served

if TYPE_CHECKING:
    import socket

    from slmops.serve.models import Models
    from slmops.serve.starting import Whole

HELP = "serve models on a port that OpenAI's clients connect to"
EXAMPLE = "slmops serve out/home/gguf --port 8080"


def add(parser: argparse.ArgumentParser) -> None:
    _served.add(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free (8080)")
    _access.add(parser)


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import json
    from concurrent.futures import Future

    with _installed():
        import uvicorn

        from slmops.serve import logs
        from slmops.serve.connection import Connection
        from slmops.serve.starting import Starting

    _access.checked(arguments)
    certificate, access = _access.certificate(arguments), _access.access(arguments)
    with contextlib.ExitStack() as held:
        listening = held.enter_context(_listening(arguments.host, arguments.port))
        loading: Future[Models] = Future()

        def load() -> Whole:
            """All that is not needed to say that the server is alive."""
            with _installed():
                from slmops.serve import app, telemetry
                from slmops.serve.desk import Desk, Watcher
                from slmops.serve.metrics import Metrics
            audit = _access.audit(arguments)  # a long log takes its time to be proven
            if audit is not None:
                held.callback(audit.close)
            models = _served.models(arguments)
            held.callback(models.close)
            loading.set_result(models)
            metrics = Metrics(models)
            watchers: list[Watcher] = [metrics, *_access.watchers(arguments, audit)]
            if telemetry.wanted(arguments.otlp):
                told = telemetry.Telemetry(arguments.otlp)
                held.callback(told.close)
                watchers.append(told)
            made = app.build(Desk(models, watchers, arguments.timeout), dataclasses.replace(access, told=audit), metrics)
            names = models.names
            said = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing yet"
            url = f"http{'s' if certificate else ''}://{_access.shown(arguments.host)}:{listening.getsockname()[1]}"
            facts = {"url": url, "models": names}
            # Who connects at once waits for the first answer.
            print(json.dumps(facts) if arguments.json else f"{url}/v1 serves {said}; Ctrl-C ends it", flush=True)
            return made

        faults: list[BaseException] = []

        def failed(fault: BaseException) -> None:
            faults.append(fault)
            server.should_exit = True

        async def looked() -> None:
            assert certificate is not None
            certificate.refresh()

        server = uvicorn.Server(
            uvicorn.Config(
                Starting(access, load, failed),
                http=Connection,
                proxy_headers=False,  # who asks is not for a header to say
                ssl_context_factory=(lambda *_: certificate.context) if certificate is not None else None,
                callback_notify=looked if certificate is not None else None,
                timeout_notify=1,
                log_config=None,
                log_level="error",  # strangers who send what is no HTTP must not fill the log
                server_header=False,
                access_log=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=30,
                limit_concurrency=1024,
                ws="none",
            )
        )
        try:
            with logs.writing(arguments.log_format, arguments.log_level), _served.reloading(arguments, loading):
                server.run([listening])
        except (KeyboardInterrupt, SystemExit):
            pass  # asked to end, and it has: what was being computed was finished
        if faults:
            raise faults[0]
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """Raises UsageError."""
    import socket

    from slmops.core.errors import UsageError

    if not 0 <= port < 1 << 16:
        raise UsageError("a port is 0 to 65535")
    # By its protocol asyncio knows that it is TCP, and turns Nagle's waiting off (44 ms at each first token).
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except OSError as error:
        made.close()
        raise UsageError(f"{host}:{port} cannot be listened on: {error.strerror}", "give another --port") from None
    return made


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Raises EngineMissing in place of ImportError."""
    from slmops.core.errors import EngineMissing

    try:
        yield
    except ImportError as error:
        raise EngineMissing(
            f"the server is not installed ({error.name} is missing)", 'pip install "slmops[serve]"'
        ) from None
