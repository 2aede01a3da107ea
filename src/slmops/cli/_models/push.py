"""slmops models push: send an artifact to an OCI registry."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slmops.cli import _signer, _units
from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.registry import Registry
    from slmops.registry.references import Reference

HELP = "send an artifact, with what is attached to it, to an OCI registry"
EXAMPLE = "slmops models push home:q4 oci:registry.example.com/edge/home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)
    parser.add_argument("place", help="oci:HOST[:PORT]/REPOSITORY[:TAG]; without a tag, that of the name")
    parser.add_argument("--force", action="store_true", help="move a tag that is another artifact's there")
    parser.add_argument("--plain-http", action="store_true", help="speak to the host without encryption")
    parser.add_argument("--jobs", type=_units.jobs, default=4, metavar="N", help="files at a time (4)")
    _signer.add(parser.add_argument_group("sign it first, as slmops models sign does"))


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text
    from slmops.cli._progress import Progress
    from slmops.core.errors import UsageError
    from slmops.registry import Registry, documents, push, references, signing
    from slmops.registry._distribution import Repository, parse

    place = parse(arguments.place)
    pinned = arguments.reference.startswith("sha256:")
    if place.digest or (pinned and not place.tag):
        raise UsageError(f"{arguments.place} names no tag to push to", "end it with :TAG")
    with Registry.open() as registry, Repository(place, plain_http=arguments.plain_http) as there:
        digest = registry.resolve(arguments.reference)
        tag = place.tag or _tag(registry, references.named(arguments.reference))
        over = None if arguments.force else ()
        if arguments.key or arguments.certificate or arguments.sigstore:
            signing.sign(registry, digest, _signer.signer(arguments))
            documents.write(registry, digest)  # the card tells who signed
        progress = Progress(quiet=arguments.json)
        done = push.push(registry, digest, there, tag, over=over, jobs=arguments.jobs, watch=progress.watch())
    text = f"{done.place}\n{done.digest}\n{_text.size(done.sent)} sent, {done.attachments} attachments"
    return Said(dataclasses.asdict(done), text)


def _tag(registry: Registry, name: Reference) -> str:
    """Of a name that is there: its own, or its only one."""
    tags = registry.catalog.tags(name.name)
    return name.tag if name.tag in tags else tags[0]
