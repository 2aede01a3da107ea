"""What sub-verbs (cli/__init__.py) have to say, and how it is said."""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from slmops.core.errors import SlmopsError


class Said(NamedTuple):
    """What a sub-verb has to say."""

    facts: Any
    """For --json."""
    text: str
    fault: SlmopsError | None = None
    """Raised after the rest was printed."""


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


def say(said: Said, as_json: bool) -> None:
    """Print it. Raises its fault."""
    from slmops.cli import _text

    text = json.dumps(said.facts, indent=1) if as_json else said.text
    if text:
        print(_text.harmless(text))
    if said.fault is not None:
        raise said.fault
