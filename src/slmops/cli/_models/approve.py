"""slmops models approve: record who lets an artifact into production, and on which gates."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "record who lets an artifact into production, and on which gates"
EXAMPLE = 'slmops models approve home:v2 --by ann@example.org --note "a week as canary"'


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("--by", required=True, metavar="WHO", help="who approves: a name of the policy's, if it has a list")
    parser.add_argument("--note", default="", metavar="TEXT", help="why, for who reads it later")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text
    from slmops.registry import Registry, approval, documents

    with Registry.open() as registry:
        digest = registry.resolve(arguments.reference)
        made, gates = approval.approve(registry, digest, arguments.by, arguments.note)
        documents.write(registry, digest)
        facts = {"digest": digest, "approval": made, "by": arguments.by, "gates": [dataclasses.asdict(one) for one in gates]}
        lines = [f"{arguments.reference}: approved by {arguments.by}", *_text.verdicts(gates)]
        if not gates:
            lines.append("  no gate was measured: slmops measure --attach, or optimize --name, measures")
        return Said(facts, "\n".join(lines))
