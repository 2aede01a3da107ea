"""slmops models sign: sign an artifact's files (OpenSSF model-signing)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.registry.signing import Signer

HELP = "sign an artifact's files (OpenSSF model-signing): with a key, a certificate, or Sigstore"
EXAMPLE = "slmops models sign home:q4 --key release.pem"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    add_options(parser)
    parser.add_argument("--bundle", metavar="FILE", help="file a signature that model_signing made of the same files")
    parser.add_argument("-o", "--out", metavar="FILE", help="write the signature too, for model_signing verify")
    parser.add_argument("--force", action="store_true", help="replace the file of -o")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What one signs with."""
    parser.add_argument("--key", metavar="PEM", help="private key on P-256, P-384 or P-521; SLMOPS_KEY_PASSWORD opens it")
    parser.add_argument("--certificate", metavar="PEM", help="the key's certificate, then those that lead to the authority")
    parser.add_argument("--sigstore", action="store_true", help="as who you are to Sigstore (goes to the network)")


def signer(arguments: argparse.Namespace) -> Signer:
    """Who signs, by the options. Raises UsageError."""
    import os
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.registry.signing import Signer

    if bool(arguments.key) == arguments.sigstore or (arguments.certificate and not arguments.key):
        raise UsageError("it is not clear who signs", "--key PEM, --key PEM --certificate PEM, or --sigstore")
    key, certificate = arguments.key and Path(arguments.key), arguments.certificate and Path(arguments.certificate)
    return Signer(key or None, certificate or None, os.environ.get("SLMOPS_KEY_PASSWORD") or None)


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.core.errors import UsageError
    from slmops.core.store import refuse_existing, write_whole
    from slmops.registry import Registry, manifest, signing

    if arguments.bundle and (arguments.key or arguments.certificate or arguments.sigstore):
        raise UsageError("a signature is made, or filed", "--bundle FILE alone, or who signs")
    if arguments.out and not arguments.force:
        refuse_existing(Path(arguments.out))
    with Registry.open() as registry:
        digest = registry.resolve(arguments.reference)
        if arguments.bundle:
            attached, who = signing.file(registry, digest, Path(arguments.bundle))
        else:
            attached, who = signing.sign(registry, digest, signer(arguments))
        if arguments.out:
            bundle = registry.document(registry.manifest(attached).layers[0].blob)
            write_whole(Path(arguments.out), manifest.canonical(bundle).decode())
        facts = {"digest": digest, "signature": attached, "by": who}
        return Said(facts, f"{arguments.reference}: signed by {who}")
