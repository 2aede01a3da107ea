"""slmops audit export: the log as JSON lines or as a table for spreadsheets."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "the log as JSON lines, or as CSV for spreadsheets"
EXAMPLE = "slmops audit export audit --since 2026-11-01 --csv -o november.csv"
COLUMNS = (
    "seq", "at", "what", "who", "role", "model", "digest", "engine", "base", "outcome", "prompt_tokens", "tokens",
    "seconds", "method", "path", "status", "request", "prompt",
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    from slmops.cli import _audited

    _audited.add(parser)
    parser.add_argument("--csv", action="store_true", help="a table in place of JSON lines")
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there instead")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> Said:
    import csv
    import io
    import json

    from slmops.cli import _audited, _sub

    found = list(_audited.found(arguments))
    if not arguments.csv:
        return _sub.written(arguments, found, "\n".join(json.dumps(one, ensure_ascii=False) for one in found))
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({name: _plain(value) for name, value in one.items()} for one in found)
    return _sub.written(arguments, found, out.getvalue().rstrip("\n"))


def _plain(value: object) -> object:
    """Text that a spreadsheet would take for a formula is not one (CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
