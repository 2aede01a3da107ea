"""slmops ps: what a running server has loaded."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "what a running server has loaded: engine, precision, memory, requests, how long it stays"
EXAMPLE = "slmops ps"
MOST = 16 << 20
"""Bytes of an answer."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server (http://127.0.0.1:8080)")
    parser.add_argument(
        "--key-file", metavar="FILE", help="a file whose first line is the key; else SLMOPS_API_KEY, else none"
    )


def run(arguments: argparse.Namespace) -> int:
    import json
    import time

    from slmops.cli import _remote, _text

    url = arguments.url.rstrip("/") + "/slmops/models"
    with _remote.asked(url, key=_key(arguments.key_file), seconds=10) as answer, _remote.understood():
        said = json.loads(answer.read(MOST))
        rows = [_row(one, time.time()) for one in said]
    if arguments.json:
        print(json.dumps(said))
        return 0
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
    from pathlib import Path

    from slmops.core.errors import SourceNotFound

    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceNotFound(f"the key cannot be read: {path}: {error}", "a text file, the key on its first line") from None
    return lines[0] if lines else None
