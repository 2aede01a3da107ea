"""slmops models card: print its model card (Markdown, with the Hub's metadata)."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "print its model card (Markdown, with the Hub's metadata)"
EXAMPLE = "slmops models card home:q4 -o README.md"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there instead")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli import _sub
    from slmops.registry import Registry, card, described

    with Registry.open() as registry:
        made = card.card(described.describe(registry, registry.resolve(arguments.reference)))
    return _sub.written(arguments, {"card": made}, made.rstrip("\n"))
