"""slmops models bom: print its bill of materials (CycloneDX 1.6, strict JSON)."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "print its bill of materials (CycloneDX 1.6, strict JSON)"
EXAMPLE = "slmops models bom home:q4 -o bom.json"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there instead")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> Said:
    import json

    from slmops.cli import _sub
    from slmops.registry import Registry, bom, described

    with Registry.open() as registry:
        made = bom.bom(described.describe(registry, registry.resolve(arguments.reference)))
    return _sub.written(arguments, made, json.dumps(made, indent=1, ensure_ascii=False))
