"""slmops models lineage: what an artifact was made from, and what from it."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "what an artifact was made from, and what from it"
EXAMPLE = "slmops models lineage home:q4 --dot"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", nargs="?", help=REFERENCE)
    parser.add_argument("--dot", action="store_true", help="as a graph for Graphviz")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.registry import Registry, lineage

    with Registry.open() as registry:
        digest = registry.resolve(arguments.reference) if arguments.reference else None
        facts = [dataclasses.asdict(one) for one in lineage.edges(registry, digest)]
        if arguments.dot:
            return Said(facts, lineage.dot(registry, digest))
        digests = [digest] if digest else [row.digest for row in registry.rows()]
        return Said(facts, "\n".join(lineage.text(registry, one) for one in digests))
