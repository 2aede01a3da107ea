"""slmops models verify: hash the files of artifacts again."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "hash the files of artifacts again"
EXAMPLE = "slmops models verify home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", nargs="+", help=REFERENCE)


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli import _text
    from slmops.registry import Registry, fsck

    with Registry.open() as registry:
        done = {one: fsck.verify(registry, registry.resolve(one)) for one in arguments.reference}
        return Said(
            {"bytes": done}, "\n".join(f"{one}: {_text.size(size)}, every byte as it was" for one, size in done.items())
        )
