"""slmops models add: file an artifact's folder."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "file an artifact's folder"
EXAMPLE = "slmops models add out/gguf --name home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a folder that slmops wrote")
    parser.add_argument("--name", metavar="NAME[:TAG]", help="default: its model's name, tagged FORMAT-SCHEME")
    parser.add_argument("--force", action="store_true", help="move a name that is taken")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.core import receipt
    from slmops.registry import Registry, documents, references
    from slmops.registry.references import Reference

    with Registry.open() as registry:
        folder = Path(arguments.folder)
        facts = receipt.load(folder)
        tag = f"{facts['format']}-{facts.get('scheme', '')}".replace("_", "-").replace(":", "-").rstrip("-")
        if arguments.name:
            name = references.named(arguments.name)
        else:
            name = references.named(str(Reference(references.slug(str(facts.get("name", ""))), tag)))
        digest = registry.add(folder, name, replace=arguments.force)
        documents.write(registry, digest)
        return Said({"digest": digest, "name": str(name)}, f"{name}: {digest}")
