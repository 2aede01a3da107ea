"""slmops audit: the log of who asked a server for what. Its sub-verbs are in _audit/."""

from __future__ import annotations

import argparse

from slmops.cli import _sub

HELP = "the audit log of a server: verify, search and export it"
EXAMPLE = "slmops audit verify audit"
ROOM = "cli._audit"


def add(parser: argparse.ArgumentParser) -> None:
    _sub.add(parser, ROOM)


def run(arguments: argparse.Namespace) -> int:
    return _sub.run(ROOM, arguments)
