"""Who signs: the options of the verbs that sign (sign, push)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmops.registry.signing import Signer


def add(parser: argparse._ActionsContainer) -> None:
    """The options."""
    parser.add_argument("--key", metavar="PEM", help="private key on P-256, P-384 or P-521; SLMOPS_KEY_PASSWORD opens it")
    parser.add_argument("--certificate", metavar="PEM", help="the key's certificate, then those that lead to the authority")
    parser.add_argument("--sigstore", action="store_true", help="as who you are to Sigstore (goes to the network)")


def signer(arguments: argparse.Namespace) -> Signer:
    """Who it is by the options. Raises UsageError where that is nobody, or two."""
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.registry.signing import Signer, password

    if bool(arguments.key) == arguments.sigstore or (arguments.certificate and not arguments.key):
        raise UsageError("it is not clear who signs", "--key PEM, --key PEM --certificate PEM, or --sigstore")
    key, certificate = (Path(one) if one else None for one in (arguments.key, arguments.certificate))
    return Signer(key, certificate, password())
