"""slmops models lease: keep an artifact for a time, whatever its names."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "keep an artifact for a time, whatever its names"
EXAMPLE = "slmops models lease home:q4 --for 7d"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("--for", dest="time", default="24h", metavar="TIME", help="how long: 24h, 7d (24h)")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli import _units
    from slmops.registry import Registry

    with Registry.open() as registry:
        digest = registry.keep(arguments.reference, "asked for by hand", seconds := _units.seconds(arguments.time))
        return Said({"digest": digest, "seconds": seconds}, f"{digest} stays for {arguments.time}")
