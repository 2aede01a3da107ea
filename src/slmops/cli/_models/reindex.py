"""slmops models reindex: make the catalog anew from the manifests."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "make the catalog anew from the manifests"
EXAMPLE = "slmops models reindex"


def add(parser: argparse.ArgumentParser) -> None:
    del parser  # it takes nothing


def run(arguments: argparse.Namespace) -> Said:
    from slmops.registry import Registry

    with Registry.open() as registry:
        registry.reindex()
        rows = registry.rows()
        return Said({"artifacts": len(rows)}, f"{len(rows)} artifacts")
