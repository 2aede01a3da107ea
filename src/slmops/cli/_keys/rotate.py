"""slmops keys rotate: a new key under the same name; the former one may hold a while longer."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "a new key under the same name, shown once; the former one may hold a while longer"
EXAMPLE = "slmops keys rotate ann --keys keys.yaml --grace 1h"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the key")
    parser.add_argument("--keys", required=True, metavar="FILE", help="the file of keys")
    parser.add_argument("--grace", metavar="TIME", help="how long the former key is still taken, such as 1h (not at all)")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses
    import time
    from pathlib import Path

    from slmops.core import units
    from slmops.core.errors import SourceNotFound, UsageError
    from slmops.serve import keys

    made, grace = keys.fresh(), units.parse_seconds(arguments.grace) if arguments.grace else 0.0
    with keys.changing(Path(arguments.keys)) as found:
        if (old := found.get(arguments.name)) is None:
            fault = f"{arguments.keys} has no key {arguments.name[:64]}"
            raise SourceNotFound(fault, f"one of: {', '.join(list(found)[:20])}")
        if old.sha256 is None:
            raise UsageError(f"{arguments.name} is known by a certificate", "issue a new certificate instead")
        found[arguments.name] = dataclasses.replace(
            old,
            sha256=keys.mark(made),
            created=time.time(),
            former=old.sha256 if grace else None,
            former_until=time.time() + grace,
        )
    return Said({"name": arguments.name, "key": made}, made)
