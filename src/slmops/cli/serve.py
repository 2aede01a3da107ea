"""slmops serve: models behind an OpenAI-compatible port."""

from __future__ import annotations

import argparse

from slmops.cli import _access

HELP = "serve models on a port that OpenAI's clients connect to"
EXAMPLE = "slmops serve out/home/gguf --port 8080"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="an artifact's folder or its name; NAME=FOLDER calls it NAME"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free (8080)")
    parser.add_argument("--engine", help="in place of the preferred one of each format")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"))
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of a prompt and its answer (4096)")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="requests computed at once, by a model (4)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait for a model (64)")
    _access.add(parser)


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import json
    import socket

    from slmops.cli import _reference
    from slmops.core.errors import EngineMissing, UsageError
    from slmops.engines import Options

    try:
        import uvicorn

        from slmops.serve import app
        from slmops.serve.connection import Connection
        from slmops.serve.desk import Desk
        from slmops.serve.models import Models
    except ImportError as error:
        raise EngineMissing(
            f"the server is not installed ({error.name} is missing)", 'pip install "slmops[serve]"'
        ) from None

    _access.checked(arguments)
    certificate, access = _access.certificate(arguments), _access.access(arguments)
    if not 0 <= arguments.port < 1 << 16 or min(arguments.queue, arguments.context, arguments.parallel) < 1:
        raise UsageError("a port is 0 to 65535; --queue, --context and --parallel are at least 1")
    folders = {}
    for text in arguments.models:
        name, _, place = text.rpartition("=")
        folder = _reference.folder(place)
        folders[name or _called(text)] = folder
    options = Options(device=arguments.device, context=arguments.context, parallel=arguments.parallel)
    models = Models(folders, arguments.engine, options, arguments.queue)
    for name in folders:
        models.get(name)  # what cannot be opened is said now, not to the first who asks
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
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
        facts = {"url": url, "models": list(folders)}
        print(json.dumps(facts) if arguments.json else f"{url}/v1 serves {', '.join(folders)}; Ctrl-C ends it", flush=True)

        async def looked() -> None:
            assert certificate is not None
            certificate.refresh()

        server = uvicorn.Server(
            uvicorn.Config(
                app.build(Desk(models, watchers, arguments.timeout), access),
                http=Connection,
                proxy_headers=False,  # who asks is not for a header to say
                ssl_context_factory=(lambda *_: certificate.context) if certificate is not None else None,
                callback_notify=looked if certificate is not None else None,
                timeout_notify=1,
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
            server.run([listening])
        except (KeyboardInterrupt, SystemExit):
            pass  # asked to end, and it has: what was being computed was finished
        finally:
            models.close()
            if audit is not None:
                audit.close()
    return 0


def _called(text: str) -> str:
    """What a model is called that was given as a folder or a name: a folder by its last part."""
    from pathlib import Path

    path = Path(text)
    return path.resolve().name if path.exists() else text
