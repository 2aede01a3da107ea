"""slmops serve: models behind an OpenAI-compatible port."""

from __future__ import annotations

import argparse

from slmops.cli import _access, _served

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
    import socket

    from slmops.core.errors import EngineMissing, UsageError

    try:
        import uvicorn

        from slmops.serve import app, logs, telemetry
        from slmops.serve.connection import Connection
        from slmops.serve.desk import Desk
        from slmops.serve.metrics import Metrics
    except ImportError as error:
        raise EngineMissing(
            f"the server is not installed ({error.name} is missing)", 'pip install "slmops[serve]"'
        ) from None

    _access.checked(arguments)
    certificate, access = _access.certificate(arguments), _access.access(arguments)
    if not 0 <= arguments.port < 1 << 16:
        raise UsageError("a port is 0 to 65535")
    models = _served.models(arguments)
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    # By its protocol asyncio knows that it is TCP, and turns Nagle's waiting off (44 ms at each first token).
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((arguments.host, arguments.port))
            listening.listen(2048)  # before the address is told: who connects at once waits for the first answer
        except OSError as error:
            raise UsageError(
                f"{arguments.host}:{arguments.port} cannot be listened on: {error.strerror}", "give another --port"
            ) from None
        audit = _access.audit(arguments)
        watchers, access = _access.watchers(arguments, audit), dataclasses.replace(access, told=audit)
        shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http{'s' if certificate else ''}://{shown}:{listening.getsockname()[1]}"
        names = models.names
        said = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing yet"
        facts = {"url": url, "models": names}
        print(json.dumps(facts) if arguments.json else f"{url}/v1 serves {said}; Ctrl-C ends it", flush=True)
        metrics, told = Metrics(models), telemetry.Telemetry(arguments.otlp) if telemetry.wanted(arguments.otlp) else None

        async def looked() -> None:
            assert certificate is not None
            certificate.refresh()

        server = uvicorn.Server(
            uvicorn.Config(
                app.build(Desk(models, [metrics, *watchers, *([told] if told else [])], arguments.timeout), access, metrics),
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
            with logs.writing(arguments.log_format, arguments.log_level), _served.reloading(arguments, models):
                server.run([listening])
        except (KeyboardInterrupt, SystemExit):
            pass  # asked to end, and it has: what was being computed was finished
        finally:
            models.close()
            if told is not None:
                told.close()
            if audit is not None:
                audit.close()
    return 0
