"""index.json of the layout: every manifest there is, and its tags as org.opencontainers.image.ref.name.

https://github.com/opencontainers/image-spec/blob/main/image-index.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, OutputExists
from slmops.core.store import write_whole
from slmops.registry import references
from slmops.registry.manifest import MANIFEST
from slmops.registry.policy import HERE, LOST
from slmops.registry.references import Reference

NAME = "index.json"
LAYOUT = "oci-layout"
VERSION = '{"imageLayoutVersion": "1.0.0"}\n'
INDEX = "application/vnd.oci.image.index.v1+json"
_LINE = ",\n"
REF_NAME = "org.opencontainers.image.ref.name"
ORIGIN = "dev.slmops.origin"
"""Annotation: where a manifest came from (registry/policy.py), as this registry saw it; another's word is not taken."""
MOST_BYTES = 256 << 20
"""About 800,000 artifacts."""


@dataclass
class Index:
    """Digest -> its descriptor without tags; reference -> digest. Mutable: it is edited under the lock, then written."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[Reference, str] = field(default_factory=dict)
    foreign: list[dict[str, Any]] = field(default_factory=list)
    """Descriptors that are not ours to understand (another tool's images); they are kept as they are."""
    read_as: str = ""
    """What stood in the file."""

    def add(self, digest: str, size: int, artifact_type: str, origin: str = HERE) -> None:
        """The first origin stays: what came from elsewhere does not become ours by coming again, nor ours another's."""
        known = self.origin(digest) if digest in self.entries else LOST
        self.entries[digest] = {"mediaType": MANIFEST, "digest": digest, "size": size, "artifactType": artifact_type}
        if (kept := origin if known == LOST else known) != HERE:
            self.entries[digest]["annotations"] = {ORIGIN: kept}

    def origin(self, digest: str) -> str:
        """Where a manifest came from; HERE where it was made here."""
        return str(self.entries[digest].get("annotations", {}).get(ORIGIN, HERE))

    def give(self, name: Reference, digest: str, replace: bool) -> None:
        """Raises OutputExists where the name is another artifact's, unless `replace`."""
        if (other := self.tags.get(name, digest)) != digest and not replace:
            raise taken(name, other)
        self.tags[name] = digest

    def drop(self, digest: str) -> None:
        self.entries.pop(digest, None)
        for reference in [one for one, held in self.tags.items() if held == digest]:
            del self.tags[reference]

    def tags_of(self, digest: str) -> list[Reference]:
        return sorted((one for one, held in self.tags.items() if held == digest), key=str)

    def text(self) -> str:
        """As JSON; equal indexes are equal texts. Written by hand: json takes four times as long over 10,000 artifacts."""
        by_digest: dict[str, list[str]] = {}
        for reference, digest in self.tags.items():
            by_digest.setdefault(digest, []).append(str(reference))
        origins = {digest: json.dumps(found) for digest in self.entries if (found := self.origin(digest)) != HERE}
        types = {kind: json.dumps(kind) for kind in {entry["artifactType"] for entry in self.entries.values()}}
        manifests: list[str] = []
        for digest, entry in sorted(self.entries.items()):
            # Digests and references are checked by their patterns: nothing of them needs escaping.
            plain = (
                f'"artifactType":{types[entry["artifactType"]]},"digest":"{digest}","mediaType":"{MANIFEST}",'
                f'"size":{entry["size"]}}}'
            )
            tags = sorted(by_digest.get(digest, ()))
            named = [f'"{REF_NAME}":"{tag}"' for tag in tags] or [""]
            if digest in origins:
                named = [f'"{ORIGIN}":{origins[digest]}{"," if one else ""}{one}' for one in named]
            manifests += [f'{{"annotations":{{{one}}},{plain}' if one else "{" + plain for one in named]
        manifests += [json.dumps(entry, separators=(",", ":"), sort_keys=True) for entry in self.foreign]
        return f'{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[\n{_LINE.join(manifests)}\n]}}\n'

    def write(self, root: Path) -> bool:
        """Whole or not at all, and only if it says something new. Raises NoSpace."""
        if (text := self.text()) == self.read_as:
            return False
        write_whole(root / NAME, text)
        return True


def read(root: Path) -> Index:
    """The index of a layout. Raises CorruptInput."""
    path = root / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CorruptInput(f"{path} is larger than {MOST_BYTES:,} bytes")
        content = path.read_bytes()
        found = parse(content, str(path))
        found.read_as = content.decode(errors="replace")
        return found
    except FileNotFoundError:
        raise CorruptInput(f"{path} is missing", "slmops models fsck --repair rebuilds it") from None


def parse(content: bytes, what: str = NAME) -> Index:
    """Raises CorruptInput for what is no image index."""
    cure = "slmops models fsck --repair rebuilds the registry's own; of an archive, make it again"
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"{what} is not JSON: {error}", cure) from None
    if not isinstance(value, dict) or not isinstance(value.get("manifests"), list) or value.get("schemaVersion") != 2:
        raise CorruptInput(f"{what} is no image index", cure)
    found = Index()
    for entry in value["manifests"]:
        if not isinstance(entry, dict) or type(entry.get("size")) is not int or not 0 <= entry["size"] < 1 << 63:
            raise CorruptInput(f"{what} holds a descriptor without a size", cure)
        digest = references.digest(entry.get("digest", ""))
        if entry.get("mediaType") != MANIFEST:
            found.foreign.append(entry)
            continue
        annotations = entry["annotations"] if isinstance(entry.get("annotations"), dict) else {}
        # An entry a tag: one that says where it came from is enough, for another tool adds tags without.
        origin = annotations.get(ORIGIN) or (found.origin(digest) if digest in found.entries else HERE)
        found.entries.pop(digest, None)
        found.add(digest, entry["size"], str(entry.get("artifactType", "")), origin if isinstance(origin, str) else LOST)
        tag = annotations.get(REF_NAME)
        # A name that another tool gave, outside the grammar, still keeps its manifest, but cannot be asked for.
        if isinstance(tag, str) and (reference := references.parse(tag)) is not None:
            found.tags[reference] = digest
    return found


def identity(root: Path) -> str:
    """What tells the file from another without reading it: each change replaces it."""
    found = (root / NAME).stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def taken(name: Reference, digest: str) -> OutputExists:
    """What to say of a name that is another artifact's."""
    return OutputExists(f"{name} is {digest[:19]} already", "choose another name, or --force to move it")
