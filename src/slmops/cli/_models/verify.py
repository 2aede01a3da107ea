"""slmops models verify: hash the files of artifacts again, and check who signed them."""

from __future__ import annotations

import argparse
from typing import Any

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "hash the files of artifacts again, and check who signed them"
EXAMPLE = "slmops models verify home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", nargs="+", help=REFERENCE)
    parser.add_argument("--key", action="append", default=[], metavar="PUB", help="a public key that must have signed")
    parser.add_argument("--ca", action="append", default=[], metavar="PEM", help="an authority whose certificate must have")
    parser.add_argument("--identity", metavar="WHO", help="whom Sigstore must know as the signer")
    parser.add_argument("--issuer", metavar="URL", help="who vouches for that identity")
    parser.add_argument(
        "--trust", metavar="JSON", help="whose authority and logs are believed (the public Sigstore's, asked in the network)"
    )


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.core.errors import UsageError
    from slmops.registry import Registry, fsck, trust
    from slmops.registry.policy import Identity, Signers

    if bool(arguments.identity) != bool(arguments.issuer):
        raise UsageError("an identity is worth what its issuer is", "--identity WHO --issuer URL")
    if arguments.trust and not arguments.identity:
        raise UsageError("--trust is about an identity", "--identity WHO --issuer URL --trust JSON")
    believed = Path(arguments.trust) if arguments.trust else None
    identities = (Identity(arguments.identity, arguments.issuer, believed),) if arguments.identity else ()
    signers = Signers(("*",), tuple(map(Path, arguments.key)), tuple(map(Path, arguments.ca)), identities)
    asked = signers.keys or signers.authorities or identities
    facts: dict[str, Any] = {"bytes": {}, "digests": {}, "signed": {}}
    lines = []
    with Registry.open() as registry:
        for one in arguments.reference:
            digest = registry.resolve(one)
            size = fsck.verify(registry, digest)
            trust.opening(registry, registry.manifest(digest))
            held = trust.verified(registry, digest, signers) if asked else []
            facts["bytes"][one], facts["digests"][one], facts["signed"][one] = size, digest, held
            signed = f"; signed by {', '.join(held)}" if held else ""
            lines.append(f"{one}: {_text.size(size)}, every byte as it was{signed}")
    return Said(facts, "\n".join(lines))
