"""Export and import: artifacts as an OCI image layout, in a folder or a tar file.

What is imported is hostile until it is proven: names are compared with the few that there are, sizes are bounded before
memory is taken, links are refused, and a blob gets its name only when its bytes hash to it. `receive` takes any `Source`, so
that a registry across the network is one more of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from slmops.core.errors import CorruptInput, NoSpace, SourceNotFound, Unsupported, UsageError
from slmops.core.store import no_space, refuse_existing, staged, sync_folder
from slmops.core.units import size
from slmops.registry import blobs, fetching, index, manifest, references, trust
from slmops.registry.blobs import Blob
from slmops.registry.index import Index
from slmops.registry.manifest import Manifest
from slmops.registry.references import Reference
from slmops.registry.registry import Registry

MOST_MEMBERS = 1_000_000
MOST_ENTRIES = 10_000
"""Artifacts of one archive."""
MOST_INDEX = 16 << 20


class Source(Protocol):
    """Somewhere that manifests and blobs come from."""

    @property
    def origin(self) -> str:
        """What the policy knows it by (registry/policy.py): file:/folder, oci:host/repository."""

    def index(self) -> Index:
        """What it offers."""

    def blob(self, wanted: Blob) -> contextlib.AbstractContextManager[BinaryIO]:
        """Its bytes, unproven. Raises SourceNotFound."""


@dataclass(frozen=True)
class Taken:
    """What an import brought."""

    artifacts: tuple[str, ...]
    names: tuple[Reference, ...]
    new: int
    """Bytes of blobs that were not here before."""
    notes: tuple[str, ...] = ()
    """What the user should know of it."""


def receive(
    registry: Registry,
    source: Source,
    *,
    rename: Reference | None = None,
    replace: bool = False,
    sources: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Taken:
    """Take in all that a source offers: manifests first, then blobs that are not here yet, then names, at once.

    rename: the name to give its only artifact, in place of its own names. sources: where their files can be had again
    (registry/remotes), attached to each.
    Raises CorruptInput, Unsupported, OutputExists (a name is another artifact's, unless `replace`), NoSpace, PolicyRefused.
    """
    registry.policy.admit(source.origin)
    offered = source.index()
    if not offered.entries:
        raise CorruptInput("it holds no artifact", "an archive is an OCI image layout of ModelPack manifests")
    if len(offered.entries) > MOST_ENTRIES:
        raise CorruptInput(f"{len(offered.entries):,} artifacts at once are too many", f"at most {MOST_ENTRIES:,}")
    new = 0
    with registry.writing():
        found = [_manifest(source, digest, int(entry["size"])) for digest, entry in sorted(offered.entries.items())]
        digests = {one.digest for one in found}
        if lone := next((one for one in found if one.subject is not None and one.subject not in digests), None):
            raise CorruptInput(f"{lone.digest} is attached to {lone.subject}, which is not there")
        names = _names(found, offered, rename)
        held = trust.entering(registry, source, found, names)
        _room(registry, found)
        for one in found:
            for blob in one.blobs:
                if not fetching.here(registry, blob):
                    with source.blob(blob) as stream:
                        registry.blobs.receive(stream, blob)
                    new += blob.size
                    registry.trust([blob.digest])
                advance(blob.size)
        for one in found:
            with source.blob(Blob(one.digest, one.size)) as stream:
                registry.blobs.receive(stream, Blob(one.digest, one.size))
        registry.trust(digests)
        if sources is not None:
            models = [Blob(one.digest, one.size) for one in found if one.subject is None]
            found += [registry.attachment(one, "origin", sources) for one in models]
        registry.commit(found, names, replace=replace, origin=source.origin)
        for signature in held:
            registry.catalog.signed(*signature)
    return Taken(tuple(one.digest for one in found if one.subject is None), tuple(names), new)


def _room(registry: Registry, found: Sequence[Manifest]) -> None:
    """Raises NoSpace before a byte is fetched that there is no room for."""
    sizes = {blob.digest: blob.size for one in found for blob in one.blobs if not registry.blobs.has(blob.digest)}
    free = shutil.disk_usage(registry.root).free
    if sum(sizes.values()) > free:
        fault = f"it takes {size(sum(sizes.values()))}, and the disk of {registry.root} has {size(free)} left"
        raise NoSpace(fault, "free some: slmops models gc")


def _manifest(source: Source, digest: str, length: int) -> Manifest:
    if length > manifest.MOST_BYTES:
        raise CorruptInput(f"the manifest {digest} claims {length:,} bytes", f"at most {manifest.MOST_BYTES:,}")
    with source.blob(Blob(digest, length)) as stream:
        content = stream.read(length + 1)
    if Blob.of(content) != Blob(digest, length):
        raise CorruptInput(f"the bytes of {digest} are not what they claim", "fetch or export it again")
    return manifest.parse(content)


def _names(found: Sequence[Manifest], offered: Index, rename: Reference | None) -> dict[Reference, str]:
    models = [one.digest for one in found if one.subject is None]
    if rename is None:
        return dict(offered.tags)
    if len(models) != 1:
        raise UsageError(f"it holds {len(models)} artifacts, and one name is given", "leave --name out: they have their own")
    return {rename: models[0]}


class Folder:
    """An OCI image layout in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.origin = _origin(root)
        for path in (root, root / "blobs", root / "blobs" / "sha256"):
            if path is not root and (path.is_symlink() or not path.is_dir()):
                raise CorruptInput(f"{root} is no OCI image layout", "it has oci-layout, index.json and blobs/sha256")

    def index(self) -> Index:
        with self._open(self._root / index.NAME) as handle:
            return index.parse(handle.read(MOST_INDEX), str(self._root / index.NAME))

    @contextlib.contextmanager
    def blob(self, wanted: Blob) -> Iterator[BinaryIO]:
        name = references.digest(wanted.digest).removeprefix("sha256:")
        with self._open(self._root / "blobs" / "sha256" / name) as handle:
            yield handle

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[BinaryIO]:
        if path.is_symlink():
            raise CorruptInput(f"{path} is a link", "an archive holds plain files only")
        if not path.is_file():
            raise SourceNotFound(f"{path} is missing", "the archive is not whole: export it again")
        with path.open("rb") as handle:
            yield handle


class Fetched:
    """Manifests that came over a network, with the index that offers them; their blobs came before, and are reserved.

    origin: what the policy knows the source by. held: digest -> a manifest's bytes.
    """

    def __init__(self, registry: Registry, origin: str, offered: Index, held: Mapping[str, bytes]) -> None:
        self.origin = origin
        self._blobs, self._offered, self._held = registry.blobs, offered, held

    def index(self) -> Index:
        return self._offered

    @contextlib.contextmanager
    def blob(self, wanted: Blob) -> Iterator[BinaryIO]:
        if wanted.digest in self._held:
            yield io.BytesIO(self._held[wanted.digest])
        elif self._blobs.has(wanted.digest):
            with self._blobs.path(wanted.digest).open("rb") as handle:
                yield handle
        else:
            raise SourceNotFound(f"the blob {wanted.digest} went while it was taken in", "pull again")


class _Bounded(io.FileIO):
    """A file that is not read by the gigabyte: tarfile takes the size of an extended header from the header."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MOST_INDEX:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size) or b""


class Tar:
    """An OCI image layout in a tar file that is not compressed; every member is looked at before one is read."""

    def __init__(self, path: Path) -> None:
        self.origin = _origin(path)
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            self._tar = tarfile.open(fileobj=_Bounded(path), mode="r:")  # noqa: SIM115 - closed by close()
            for number, member in enumerate(self._tar):
                name = member.name.removeprefix("./").rstrip("/")
                if number >= MOST_MEMBERS:
                    raise CorruptInput(f"{path} has more than {MOST_MEMBERS:,} members")
                if member.isdir() and name in ("", ".", "blobs", "blobs/sha256"):
                    continue
                blob = name.startswith("blobs/sha256/") and references.DIGEST.fullmatch(f"sha256:{name[13:]}")
                if not member.isreg() or not (blob or name in (index.NAME, index.LAYOUT)) or name in self._members:
                    raise CorruptInput(f"{path} holds {member.name[:100]!r}, which has no place in an OCI image layout")
                self._members[name] = member
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise CorruptInput(f"{path} is no tar file: {error}", "it must not be compressed") from None

    def close(self) -> None:
        self._tar.close()

    def index(self) -> Index:
        with self._open(index.NAME) as handle:
            return index.parse(handle.read(MOST_INDEX))

    @contextlib.contextmanager
    def blob(self, wanted: Blob) -> Iterator[BinaryIO]:
        with self._open(f"blobs/sha256/{references.digest(wanted.digest).removeprefix('sha256:')}") as handle:
            yield handle

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        member = self._members.get(name)
        handle = self._tar.extractfile(member) if member is not None else None
        if handle is None:
            raise SourceNotFound(f"the archive has no {name}", "it is not whole: export it again")
        try:
            with handle:
                yield handle  # type: ignore[misc]  # a buffered reader, which reads as one
        except tarfile.TarError as error:
            raise CorruptInput(f"the archive is cut off at {name}: {error}") from None


def _origin(path: Path) -> str:
    return f"file:{path.resolve().as_posix()}"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A folder or a tar file as a source. Raises SourceNotFound, CorruptInput."""
    if path.is_dir():
        yield Folder(path)
    elif path.is_file():
        with contextlib.closing(Tar(path)) as archive:
            yield archive
    else:
        raise SourceNotFound(f"there is no archive {path}", "give a folder or a .tar that slmops models export wrote")


def send(registry: Registry, wanted: Sequence[str], out: Path, *, replace: bool = False) -> int:
    """Write artifacts, with their names and what is attached to them, to `out`: a tar if it ends so, else a folder.

    Bytes written. Each blob is hashed on its way: what is damaged is not passed on. Raises CorruptInput, OutputExists.
    """
    if out.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".zip")):
        raise Unsupported(f"{out} would be compressed, and weights do not get smaller", "name it .tar, or give a folder")
    with registry.writing():
        offered, needed = Index(), {}
        tagged = {row.digest: row.tags for row in registry.rows()}
        for digest in wanted:
            for one in (digest, *(name for name, _ in registry.catalog.attachments(digest))):
                found = registry.manifest(one)
                offered.add(one, found.size, found.artifact_type)
                needed.update({blob.digest: blob for blob in (Blob(one, found.size), *found.blobs)})
            for tag in tagged.get(digest, ()):
                offered.tags[references.named(tag)] = digest
        small = {index.LAYOUT: index.VERSION.encode(), index.NAME: offered.text().encode()}
        ordered = sorted(needed.values(), key=lambda blob: blob.digest)
        (_tarred if out.suffix == ".tar" else _laid)(registry, small, ordered, out, replace)
    return sum(blob.size for blob in ordered)


def _laid(registry: Registry, small: dict[str, bytes], wanted: Sequence[Blob], out: Path, replace: bool) -> None:
    with staged(out, replace) as folder:
        (folder / "blobs" / "sha256").mkdir(parents=True)
        for name, content in small.items():
            (folder / name).write_bytes(content)
        for blob in wanted:
            source = registry.blobs.path(blob.digest)
            with source.open("rb") as handle, (folder / "blobs" / "sha256" / source.name).open("wb") as target:
                checked = _Checked(handle, blob)
                while chunk := checked.read(blobs.CHUNK):
                    target.write(chunk)
                checked.finish()


def _tarred(registry: Registry, small: dict[str, bytes], wanted: Sequence[Blob], out: Path, replace: bool) -> None:
    """Equal artifacts make equal bytes: no times, no owners, sorted."""
    if not replace:
        refuse_existing(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with no_space(out), temporary.open("wb") as handle:
            with tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name, content in small.items():
                    archive.addfile(_member(name, len(content)), io.BytesIO(content))
                for blob in wanted:
                    source = registry.blobs.path(blob.digest)
                    with source.open("rb") as content_of:
                        checked = _Checked(content_of, blob)
                        archive.addfile(_member(f"blobs/sha256/{source.name}", blob.size), checked)
                        checked.finish()
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(out)
        sync_folder(out.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


class _Checked:
    """A reader that hashes what passes."""

    def __init__(self, handle: BinaryIO, blob: Blob) -> None:
        self._handle, self._blob, self._hash = handle, blob, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        chunk = self._handle.read(count)
        self._hash.update(chunk)
        return chunk

    def finish(self) -> None:
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise blobs.damaged(self._blob.digest)
