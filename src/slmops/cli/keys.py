"""slmops keys: who may ask a server, and how much. Its sub-verbs are in _keys/."""

from __future__ import annotations

import argparse

from slmops.cli import _sub

HELP = "the keys of a server: make, list, revoke and rotate them"
EXAMPLE = "slmops keys list --keys keys.yaml"
ROOM = "cli._keys"


def add(parser: argparse.ArgumentParser) -> None:
    _sub.add(parser, ROOM)


def run(arguments: argparse.Namespace) -> int:
    return _sub.run(ROOM, arguments)
