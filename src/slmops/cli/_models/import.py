"""slmops models import: take artifacts in from an OCI image layout."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "take artifacts in from an OCI image layout"
EXAMPLE = "slmops models import home.tar"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", help="a folder or a tar of an OCI image layout")
    parser.add_argument("--name", metavar="NAME[:TAG]", help="for its only artifact, in place of its own names")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.registry import Registry, archive, references

    with Registry.open() as registry:
        rename = references.named(arguments.name) if arguments.name else None
        with archive.opened(Path(arguments.archive)) as source:
            taken = archive.receive(registry, source, rename=rename, replace=arguments.force)
        facts = {"artifacts": taken.artifacts, "names": list(map(str, taken.names)), "new": taken.new}
        named = ", ".join(map(str, taken.names)) or "no name"
        return Said(facts, f"{len(taken.artifacts)} artifacts ({named}), {_text.size(taken.new)} of it new")
