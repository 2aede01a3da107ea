"""slmops models tag: give an artifact a further name."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "give an artifact a further name"
EXAMPLE = "slmops models tag home:q4 home:stable"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("new", metavar="NAME[:TAG]", help="the name to give")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.registry import Registry, references

    with Registry.open() as registry:
        name = references.named(arguments.new)
        digest = registry.tag(arguments.reference, name, replace=arguments.force)
        return Said({"digest": digest, "name": str(name)}, f"{name}: {digest}")
