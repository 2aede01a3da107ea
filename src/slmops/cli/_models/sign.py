"""slmops models sign: sign an artifact's files (OpenSSF model-signing)."""

from __future__ import annotations

import argparse

from slmops.cli import _signer
from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "sign an artifact's files (OpenSSF model-signing): with a key, a certificate, or Sigstore"
EXAMPLE = "slmops models sign home:q4 --key release.pem"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    _signer.add(parser)
    parser.add_argument("--bundle", metavar="FILE", help="file a signature that model_signing made of the same files")
    parser.add_argument("-o", "--out", metavar="FILE", help="write the signature too, for model_signing verify")
    parser.add_argument("--force", action="store_true", help="replace the file of -o")


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
            attached, who = signing.sign(registry, digest, _signer.signer(arguments))
        if arguments.out:
            bundle = registry.document(registry.manifest(attached).layers[0].blob)
            write_whole(Path(arguments.out), manifest.canonical(bundle).decode())
        facts = {"digest": digest, "signature": attached, "by": who}
        return Said(facts, f"{arguments.reference}: signed by {who}")
