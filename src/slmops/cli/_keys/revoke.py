"""slmops keys revoke: take keys away; a server that runs refuses them from its next request on."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "take keys away; a server that runs refuses them at once"
EXAMPLE = "slmops keys revoke ann --keys keys.yaml"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="+", help="of a key")
    parser.add_argument("--keys", required=True, metavar="FILE", help="the file of keys")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.core.errors import SourceNotFound
    from slmops.serve import keys

    with keys.changing(Path(arguments.keys)) as found:
        for name in arguments.name:
            if found.pop(name, None) is None:
                raise SourceNotFound(f"{arguments.keys} has no key {name[:64]}", f"one of: {', '.join(list(found)[:20])}")
    return Said({"revoked": arguments.name}, f"{', '.join(arguments.name)}: revoked")
