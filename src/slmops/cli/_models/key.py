"""slmops models key: make a pair of keys to sign with."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "make a pair of keys to sign with; SLMOPS_KEY_PASSWORD encrypts the private one"
EXAMPLE = "slmops models key release.pem"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="NAME.pem", help="the private key (P-256); the public one is NAME.pub beside it")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.registry import signing

    path = Path(arguments.path)
    if path.suffix == ".pub":
        raise UsageError(f"{path} would be the public key's name", "NAME.pem")
    public = signing.make_key(path, signing.password())
    return Said({"private": str(path), "public": str(public)}, f"{path}: keep it to yourself\n{public}: for who verifies")
