"""slmops ps: what a running server has loaded."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "what a running server has loaded: engine, precision, memory, requests, how long it stays"
EXAMPLE = "slmops ps"
KEY = "SLMOPS_API_KEY"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server (http://127.0.0.1:8080)")
    parser.add_argument("--key-file", metavar="FILE", help=f"a file whose first line is the key; else {KEY}, else none")


def run(arguments: argparse.Namespace) -> int:
    import json
    import time

    from slmops.cli import _text
    from slmops.core.errors import CorruptInput

    said = _asked(arguments.url.rstrip("/") + "/slmops/models", _key(arguments.key_file))
    if arguments.json:
        print(json.dumps(said))
        return 0
    try:
        rows = [_row(one, time.time()) for one in said]
    except (KeyError, TypeError, AttributeError):
        raise CorruptInput(f"{arguments.url} does not answer as slmops serve does", "is it a server of slmops?") from None
    header = ["name", "digest", "engine", "precision", "memory", "running", "waiting", "until", "up"]
    print(_text.table(header, rows, "llllrrrll") if rows else "nothing is loaded")
    return 0


def _row(one: dict[str, Any], now: float) -> list[str]:
    from slmops.cli import _text

    if one["pinned"]:
        until = "pinned"
    elif not one["loaded"]:
        until = f"not loaded: {one['fault']}"[:60] if one["fault"] else "not loaded"
    else:
        until = "always" if one["expires"] is None and not one["running"] + one["waiting"] else "in use"
        until = _time(one["expires"] - now) if one["expires"] is not None else until
    return [
        ", ".join(one["names"]) or one["name"],
        one["digest"][7:19] or "-",
        one["engine"],
        one["precision"] or one["scheme"] or "-",
        _text.size(one["memory"]) if one["loaded"] else f"({_text.size(one['expected'])})",
        str(one["running"]),
        str(one["waiting"]),
        until,
        _time(now - one["since"]) if one["since"] is not None else "-",
    ]


def _time(seconds: float) -> str:
    """12s, 9m, 3h, 2d."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _key(path: str | None) -> str | None:
    import os
    from pathlib import Path

    from slmops.core.errors import SourceNotFound

    if path is None:
        return os.environ.get(KEY)
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceNotFound(f"the key cannot be read: {path}: {error}", "a text file, the key on its first line") from None
    return lines[0] if lines else None


def _asked(url: str, key: str | None) -> Any:
    """Raises Unreachable, PolicyRefused, CorruptInput, UsageError."""
    import http.client
    import json
    import urllib.error
    import urllib.request

    from slmops.core.errors import CorruptInput, PolicyRefused, Unreachable, UsageError

    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is no address of a server", "--url http://127.0.0.1:8080")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read(16 << 20))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise PolicyRefused(f"{url} refuses ({error.code})", f"give --key-file FILE, or the key in {KEY}") from None
        raise Unreachable(f"{url} answers {error.code}", "is it a server of slmops?") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            f"no server answers at {url}: {error}", "slmops serve starts one; --url says where it is"
        ) from None
    except ValueError:
        raise CorruptInput(f"{url} does not answer with JSON", "is it a server of slmops?") from None
