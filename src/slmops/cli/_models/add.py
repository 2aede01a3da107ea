"""slmops models add: file an artifact, or a model that others made."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "file an artifact, or a model that others made"
EXAMPLE = "slmops models add out/gguf --name home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a folder that slmops wrote, a folder of any model that it reads, or a .gguf")
    parser.add_argument("--name", metavar="NAME[:TAG]", help="default: its model's name, tagged FORMAT-SCHEME")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.registry import Registry, documents, plain, references

    with Registry.open() as registry:
        found = plain.described(Path(arguments.path).expanduser())
        name = references.named(arguments.name) if arguments.name else plain.name_of(found.facts)
        digest = registry.take_in(found.facts, found.files, name, replace=arguments.force)
        documents.write(registry, digest)
        notes = plain.notes(found.left)
        return Said({"digest": digest, "name": str(name), "notes": notes}, "\n".join([f"{name}: {digest}", *notes]))
