"""Remotes that have files, not artifacts: one model of a listing, fetched, described and filed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core import licences
from slmops.core.watch import Watch
from slmops.registry import blobs, contents, fetching, manifest, plain
from slmops.registry.archive import Taken
from slmops.registry.blobs import Blob
from slmops.registry.fetching import Fill, Piece
from slmops.registry.manifest import Layer
from slmops.registry.references import Reference
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted

Bring = Callable[[str, Path, int, Callable[[int], None]], None]
"""bring(path, file, size, came): a file of the remote to its end; see fetching.Fill."""


@dataclass(frozen=True)
class Listing:
    """What a remote holds: path -> its bytes."""

    what: str
    """How errors call it."""
    origin: str
    """What the policy knows it by."""
    source: str
    """What is remembered of where it came from: a source that pull takes, at a commit where it has such."""
    files: Mapping[str, Piece]
    name: str
    """Of the model: what headers and configs say of it is often no name."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """For the manifest: hub, revision."""


def pull(registry: Registry, listing: Listing, bring: Bring, wanted: Wanted, watch: Watch) -> Taken:
    """Small files first, so that what nobody here can read is refused before its weights are fetched.

    Raises UsageError (several models), SourceNotFound, CorruptInput, Unsupported, UnknownFamily, OutputExists, NoSpace,
    PolicyRefused, and what `bring` raises.
    """
    from slmops.formats import _licence

    sizes = {path: piece.size for path, piece in listing.files.items()}
    policy = registry.policy
    if wanted.name is not None and not wanted.replace and not _held(registry, wanted.name, listing):
        registry.refuse_taken(wanted.name)
    refuse_unsigned(registry, listing.origin)
    choice = contents.choose(sizes, listing.what, wanted.variant, wanted.patterns)
    names = {path: choice.inside(path) for path in (*choice.others, *choice.weights)}
    manifest.check_paths(list(names.values()))
    fill = filling({listing.files[path]: path for path in names}, bring)
    found: dict[str, Blob] = {}
    fresh = 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(registry.scratch())

        def fetch(paths: Sequence[str]) -> int:
            """And lay them into the folder as readers expect them; bytes that are new."""
            pieces = [listing.files[path] for path in paths]
            inside = fetching.fetched(registry, pieces, fill, jobs=wanted.jobs, most=wanted.most_bytes, watch=watch)
            came = stack.enter_context(inside)
            for path in paths:
                found[path] = came.blobs[listing.files[path]]
                target = folder / names[path]
                target.parent.mkdir(parents=True, exist_ok=True)
                blobs.share(registry.blobs.path(found[path].digest), target)
            return came.new

        def missing(paths: Sequence[str]) -> int:
            pieces = {listing.files[path] for path in paths}
            return sum(one.size for one in pieces if one.blob is None or not registry.blobs.has(one.blob.digest))

        fresh += fetch(choice.others)
        choice = plain.narrowed(choice, folder)
        if policy.judges_licences:
            policy.admit_licence(licences.spdx(_licence.read(folder)), listing.what)
        policy.admit_size(listing.origin, fresh + missing(choice.weights))
        fresh += fetch(choice.weights)
        taken = sorted((*choice.others, *choice.weights))
        facts = plain.facts(folder, choice, listing.name, listing.facts)
        name = wanted.name or plain.name_of(facts, choice.label if choice.form == "gguf" else None)
        layers = [Layer(names[path], found[path], manifest.kind_of(names[path])) for path in taken]
        listed = {names[path]: {"path": path, "digest": found[path].digest, "size": found[path].size} for path in taken}
        again = {"source": listing.source, "files": listed}
        with registry.writing():
            digest = registry.file(facts, layers, name, origin=listing.origin, sources=again, replace=wanted.replace)
    return Taken((digest,), (name,), fresh, plain.notes(choice.left))


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], bring: Bring, watch: Watch) -> None:
    """Fetch lost blobs again, from where the document has them; others are left. Raises what `bring` raises."""
    listed = document.get("files")
    places: dict[Piece, str] = {}
    for entry in listed.values() if isinstance(listed, dict) else ():
        if isinstance(entry, dict) and (blob := Blob(str(entry.get("digest")), entry.get("size", 0))) in lost:
            places[Piece.of(blob)] = str(entry.get("path"))
    fill = filling(places, bring)
    with fetching.fetched(registry, list(places), fill, most=registry.policy.most_bytes, watch=watch):
        pass


def refuse_unsigned(registry: Registry, origin: str) -> None:
    """Files carry no signatures. Raises PolicyRefused where the policy wants one of what comes from there."""
    if rules := registry.policy.signers(origin):
        where = ", ".join(rules[0].sources)
        cure = f"what comes from {where} must be signed: take a signed artifact of it, by oci: or an archive"
        raise registry.policy.refused("require_signature", f"files of {origin} carry no signature", cure)


def _held(registry: Registry, name: Reference, listing: Listing) -> bool:
    """Whether a name is of what was pulled from there before."""
    digest = registry.catalog.tagged(name.name, name.tag)
    return any(
        about.subject == digest and said.get("source") == listing.source for about, said in registry.attached("origin")
    )


def filling(places: Mapping[Piece, str], bring: Bring) -> Fill:
    """A Fill of pieces that have a path each."""

    def fill(piece: Piece, path: Path, came: Callable[[int], None]) -> None:
        bring(places[piece], path, piece.size, came)

    return fill
