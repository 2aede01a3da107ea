"""slmops models ls: list artifacts: names, format, scheme, size."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "list artifacts: names, format, scheme, size"
EXAMPLE = "slmops models ls"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="only artifacts that have a tag of this name")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli import _text
    from slmops.registry import Registry

    with Registry.open() as registry:
        rows = registry.rows(arguments.name)
    facts = [{**row._asdict(), "verified": bool(row.verified)} for row in rows] if arguments.json else []
    shown = [
        [
            ", ".join(row.tags) or "-",
            row.digest[7:19],
            row.format.replace("_", "-"),
            row.scheme,
            _text.size(row.bytes),
            "damaged" if row.fault else "yes" if row.verified else "no",
        ]
        for row in rows
    ]
    table = _text.table(["name", "digest", "format", "scheme", "size", "proven"], shown, "llllrl")
    return Said(facts, table if rows else "nothing yet")
