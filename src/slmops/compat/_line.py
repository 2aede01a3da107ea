"""A command line of another tool, read by argparse, whose mistakes are UsageErrors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from slmops.compat import Native
from slmops.core.errors import UsageError


class Line(argparse.ArgumentParser):
    """prog: the tool and its command, as people type them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        tool = self.prog.partition(" ")[0]
        raise UsageError(f"{self.prog}: {message}", f"what is known: slmops compat {tool}")


Command = Callable[[Line, list[str]], Native]
"""Reads the words behind its own name."""


def plain(*native: str, given: int = 0, more: bool = False) -> Command:
    """A command whose words are those of a verb here: so many names, or one and `more`."""

    def command(parser: Line, words: list[str]) -> Native:
        if given or more:
            parser.add_argument("words", nargs="+" if more else given, metavar="MODEL")
        found = vars(parser.parse_args(words)).get("words", [])
        return Native((*native, *found))

    return command
