"""Verbs of verbs: a folder beside the verb's file, one sub-verb a file: HELP, EXAMPLE, add(parser), run(arguments)."""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from slmops.core import plugins
from slmops.core.errors import SlmopsError


class Said(NamedTuple):
    """What a sub-verb has to say."""

    facts: Any
    """For --json."""
    text: str
    fault: SlmopsError | None = None
    """Raised after the rest was printed."""


def add(parser: argparse.ArgumentParser, room: str) -> None:
    """A parser for each sub-verb of the room `cli._<verb>`."""
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name in plugins.names(room):
        module = plugins.load(room, name)
        one = verbs.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP}\n\nexample:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
        module.add(one)


def written(arguments: argparse.Namespace, facts: Any, text: str) -> Said:
    """A document, on standard output or in the file of `-o`, whole. Raises OutputExists unless `--force`."""
    if not arguments.out:
        return Said(facts, text)
    from pathlib import Path

    from slmops.core.store import refuse_existing, write_whole

    if not arguments.force:
        refuse_existing(Path(arguments.out))
    write_whole(Path(arguments.out), text + "\n")
    return Said({"out": arguments.out}, f"{arguments.out}: written")


def run(room: str, arguments: argparse.Namespace) -> int:
    said: Said = plugins.load(room, arguments.what).run(arguments)
    text = json.dumps(said.facts, indent=1) if arguments.json else said.text
    # What manifests and registries say is not ours: nothing of it may steer the terminal.
    if not text.replace("\n", "").isprintable():
        text = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    if text:
        print(text)
    if said.fault is not None:
        raise said.fault
    return 0
