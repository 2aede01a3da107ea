"""slmops models: the registry of what was made and fetched: names, bytes, lineage, health. Its sub-verbs are in _models/."""

from __future__ import annotations

import argparse

from slmops.cli import _sub

HELP = "the registry: add, list, show, name and remove artifacts; check, clean, export and import them"
EXAMPLE = "slmops models ls"
ROOM = "cli._models"


def add(parser: argparse.ArgumentParser) -> None:
    _sub.add(parser, ROOM)


def run(arguments: argparse.Namespace) -> int:
    return _sub.run(ROOM, arguments)
