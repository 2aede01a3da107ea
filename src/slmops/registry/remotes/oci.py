"""OCI registries: `oci:HOST/REPOSITORY[:TAG][@sha256:...]`, over HTTP (_distribution.py)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core import receipt
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported, UsageError
from slmops.core.watch import Watch
from slmops.registry import archive, documents, fetching, manifest, remembered, trust
from slmops.registry._distribution import Held, Repository, parse
from slmops.registry.blobs import Blob
from slmops.registry.fetching import Piece
from slmops.registry.index import Index
from slmops.registry.manifest import Manifest
from slmops.registry.references import LATEST, Reference
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted

PREFIXES = ("oci:",)
OPTIONS = ("plain_http",)
OWN = ("origin",)
"""Kinds of attachments that are this machine's own matter: neither sent, nor taken from others, who could say anything."""
HERE = (*OWN, *documents.KINDS)
"""Kinds that are not taken: those, and what follows from the rest, and is written anew."""


def origin(where: str) -> str:
    place = parse(where)
    return f"oci:{place.host}/{place.repository}"


def pull(registry: Registry, where: str, wanted: Wanted, watch: Watch) -> archive.Taken:
    """An artifact with what is attached to it. Its name is that of the repository's last part, and the tag's.

    Raises SourceNotFound, CorruptInput, Unsupported, Unreachable, OutputExists, NoSpace.
    """
    place = parse(where)
    with Repository(place, plain_http=wanted.plain_http) as there:
        tag = place.tag or ("" if place.digest else _only_tag(there))
        if wanted.name is None and not tag:
            raise UsageError(f"{place} has no tag to be named after", "give --name NAME:TAG")
        name = wanted.name or Reference(place.repository.rpartition("/")[2], tag)
        return bring(registry, there, place.digest or tag, dataclasses.replace(wanted, name=name), watch)


def bring(registry: Registry, there: Repository, reference: str, wanted: Wanted, watch: Watch) -> archive.Taken:
    """The artifact of a tag or digest, with what is attached to it; named only where `wanted` has a name."""
    remembered.read(registry.root)  # one that is broken is told before the work
    model = there.manifest(reference)
    found, name = _artifact(model, there.named(reference)), wanted.name
    if name is not None and not wanted.replace and registry.catalog.tagged(name.name, name.tag) != found.digest:
        registry.refuse_taken(name)
    attached = list(_attachments(there, found))
    held = {one.blob.digest: one.content for one in (model, *attached)}
    parsed = [manifest.parse(content) for content in held.values()]
    offered = Index()
    for one in parsed:
        offered.add(one.digest, one.size, one.artifact_type)
    pieces = {Piece.of(blob) for one in parsed for blob in one.blobs}
    source = archive.Fetched(registry, origin(str(there.place)), offered, held)
    again, named = {"source": f"{there.place}@{found.digest}"}, {} if name is None else {name: found.digest}

    def fetched(pieces: set[Piece], watch: Watch) -> contextlib.AbstractContextManager[fetching.Fetched]:
        ordered = sorted(pieces, key=lambda piece: (-piece.size, piece.key))  # the last to come is then a small one
        return fetching.fetched(registry, ordered, fill, jobs=wanted.jobs, most=wanted.most_bytes, watch=watch)

    fill = _filling(there)
    with contextlib.ExitStack() as stack:
        # What the policy looks at comes before what is large.
        small = {Piece.of(blob) for blob in (found.config, *(blob for one in parsed[1:] for blob in one.blobs))}
        first = stack.enter_context(fetched(small, Watch()))
        trust.entering(registry, source, parsed, named)
        then = stack.enter_context(fetched(pieces, watch))
        came = archive.receive(registry, source, rename=name, replace=wanted.replace, sources=again)
    remembered.change(registry.root, lambda known: known.saw(there, found.digest))
    return dataclasses.replace(came, new=first.new + then.new)


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch) -> None:
    """Lost blobs of an artifact that was pulled. Raises what pulling raises."""
    place = parse(str(document["source"]))
    plain, pieces = place.host in remembered.read(registry.root).plain, [Piece.of(blob) for blob in lost]
    with (
        Repository(place, plain_http=plain) as there,
        fetching.fetched(registry, pieces, _filling(there), watch=watch),
    ):
        pass


def _filling(there: Repository) -> fetching.Fill:
    def fill(piece: Piece, path: Path, came: Callable[[int], None]) -> None:
        assert piece.blob is not None
        there.append(piece.blob, path, came)

    return fill


def _only_tag(there: Repository) -> str:
    """`latest`, or the only one. Raises SourceNotFound."""
    tags = there.tags()
    if LATEST in tags or len(tags) == 1:
        return LATEST if LATEST in tags else tags[0]
    if not tags:
        raise SourceNotFound(f"{there.place} has no tags, or is not there", "check host and name; log in if it is private")
    raise SourceNotFound(
        f"{there.place} has {len(tags)} tags and no `{LATEST}`", f"name one: {', '.join(sorted(tags)[:20])}"
    )


def _artifact(held: Held, named: str) -> Manifest:
    """A model's manifest. Raises Unsupported for what a registry also holds: images, lists of them, packed layers."""
    if held.media not in (manifest.MANIFEST, ""):
        raise Unsupported(f"{named} is a {held.media[:100]!r}, not a model", "name a ModelPack by its tag or digest")
    found = manifest.parse(held.content)
    if found.subject is not None:
        raise Unsupported(f"{named} is attached to {found.subject[:19]}", "pull that: its attachments come with it")
    if found.config.size > manifest.MOST_BYTES:
        raise CorruptInput(f"the config of {named} claims {found.config.size:,} bytes", f"at most {manifest.MOST_BYTES:,}")
    return found


def _attachments(there: Repository, found: Manifest) -> Iterator[Held]:
    """What is attached to a model there, of kinds that are kept here. What cannot be read is not taken, nor is it missed."""
    for one in there.referrers(found.digest):
        if not taken(one.artifact_type) or one.blob.size > manifest.MOST_BYTES:
            continue
        with contextlib.suppress(SourceNotFound, Unsupported, CorruptInput):
            held = there.manifest(one.blob.digest)
            parsed = manifest.parse(held.content)
            small = all(blob.size <= receipt.MOST_BYTES for blob in parsed.blobs)
            if parsed.subject == found.digest and taken(parsed.artifact_type) and small:
                yield held


def taken(artifact_type: str) -> bool:
    """Whether attachments of this type are taken from others."""
    kind = manifest.kind_attached(artifact_type)
    return kind is not None and kind not in HERE
