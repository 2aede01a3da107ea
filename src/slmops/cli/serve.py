"""slmops serve: models behind an OpenAI-compatible port."""

from __future__ import annotations

import argparse

from slmops.cli import _served

HELP = "serve models on a port that OpenAI's clients connect to"
EXAMPLE = "slmops serve out/home/gguf --port 8080"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add(parser: argparse.ArgumentParser) -> None:
    _served.add(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free (8080)")
    parser.add_argument("--keys", metavar="FILE", help="a file of keys, one a line: who sends none of them is refused")
    parser.add_argument("--insecure", action="store_true", help="listen on other addresses without keys")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name that requests may be sent to"
    )


def run(arguments: argparse.Namespace) -> int:
    import json
    import socket
    from pathlib import Path

    from slmops.core.errors import EngineMissing, UsageError

    try:
        import uvicorn

        from slmops.serve import app, logs, telemetry
        from slmops.serve.access import Access
        from slmops.serve.desk import Desk
        from slmops.serve.metrics import Metrics
    except ImportError as error:
        raise EngineMissing(
            f"the server is not installed ({error.name} is missing)", 'pip install "slmops[serve]"'
        ) from None

    keys = _keys(Path(arguments.keys)) if arguments.keys else []
    if arguments.host not in LOOPBACK and not keys and not arguments.insecure:
        cure = "give --keys FILE, or say --insecure if something in front of it checks who asks"
        raise UsageError(f"{arguments.host} can be reached from elsewhere, and no keys are asked for", cure)
    if not 0 <= arguments.port < 1 << 16:
        raise UsageError("a port is 0 to 65535")
    models = _served.models(arguments)
    hosts = {*LOOPBACK, "[::1]", arguments.host.lower(), *(one.lower() for one in arguments.allow_host)}
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
        shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        names = models.names
        said = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing yet"
        facts = {"url": url, "models": names}
        print(json.dumps(facts) if arguments.json else f"{url}/v1 serves {said}; Ctrl-C ends it", flush=True)
        metrics, told = Metrics(models), telemetry.Telemetry(arguments.otlp) if telemetry.wanted(arguments.otlp) else None
        server = uvicorn.Server(
            uvicorn.Config(
                app.build(Desk(models, [metrics, *([told] if told else [])]), Access.of(keys, hosts), metrics),
                log_config=None,
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
    return 0


def _keys(path: object) -> list[str]:
    from pathlib import Path

    from slmops.core.errors import SourceNotFound, UsageError

    assert isinstance(path, Path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SourceNotFound(f"the keys cannot be read: {path}: {error.strerror}", "a text file, one key a line") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found or any(len(key) < 16 for key in found):
        raise UsageError(
            f"{path} needs one key a line, of 16 letters or more",
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return found
