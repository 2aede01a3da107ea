"""slmops models rm: take a name away (of a digest all); the bytes go with gc."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "take a name away (of a digest all); the bytes go with gc"
EXAMPLE = "slmops models rm home:stable"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", nargs="+", help=REFERENCE)


def run(arguments: argparse.Namespace) -> Said:
    from slmops.registry import Registry

    with Registry.open() as registry:
        done = [registry.remove(one) for one in arguments.reference]
        facts = [{"digest": digest, "names": list(map(str, gone))} for digest, gone in done]
        lines = [f"{', '.join(map(str, gone)) or 'no name'}: {digest}" for digest, gone in done]
        return Said(facts, "\n".join([*lines, "what has no name any more goes with gc, a day from now: slmops models gc"]))
