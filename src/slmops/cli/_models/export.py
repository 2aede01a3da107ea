"""slmops models export: write artifacts as an OCI image layout."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "write artifacts as an OCI image layout"
EXAMPLE = "slmops models export home:q4 -o home.tar"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", nargs="+", help=REFERENCE)
    parser.add_argument("-o", "--out", required=True, help="a file that ends in .tar, or a folder")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.registry import Registry, archive, documents

    with Registry.open() as registry:
        digests = [registry.resolve(one) for one in arguments.reference]
        for one in digests:
            documents.write(registry, one)
        size = archive.send(registry, list(dict.fromkeys(digests)), Path(arguments.out), replace=arguments.force)
        return Said({"out": arguments.out, "digests": digests, "bytes": size}, f"{arguments.out}: {_text.size(size)}")
