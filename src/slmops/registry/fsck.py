"""fsck: read everything, and say what is not as it must be; with repair, make again what can be made from the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slmops.core.errors import CorruptInput, PolicyRefused, SlmopsError, SourceNotFound
from slmops.core.store import file_digest, write_whole
from slmops.core.watch import Watch
from slmops.registry import approval, catalog, gc, index, manifest, placing, policy, references, trust
from slmops.registry.blobs import Blob, Identity
from slmops.registry.catalog import Catalog
from slmops.registry.founding import home
from slmops.registry.index import Index
from slmops.registry.manifest import Manifest
from slmops.registry.registry import Registry


@dataclass(frozen=True)
class Problem:
    """Something that is not as it must be."""

    what: str
    """layout, index, manifest, blob, catalog, folder or policy; `leftover` is harmless."""
    name: str
    said: str
    repaired: bool = False
    lost: str = ""
    """The digest of a blob that is missing or damaged."""

    @property
    def harmless(self) -> bool:
        return self.what == "leftover"


@dataclass(frozen=True)
class Checked:
    """What was read, and what was found."""

    problems: tuple[Problem, ...]
    blobs: int
    bytes: int
    manifests: int

    @property
    def sound(self) -> bool:
        return all(one.harmless or one.repaired for one in self.problems)


def check(root: Path | None = None, *, repair: bool = False, watch: Watch | None = None) -> Checked:
    """Check the registry at `root`. Waits for writers, and they for it.

    Repair: the layout's file, the index (from manifests, and tags from the catalog), the catalog, placed folders. A damaged
    blob is set aside in quarantine/; what an artifact's `origin` says where to find is fetched again, proven by its digest.
    """
    watch = watch or Watch()
    root = (root or home()).absolute()
    problems = list(_layout(root, repair))
    if any(not one.repaired for one in problems):
        return Checked(tuple(problems), 0, 0, 0)
    with Registry.open(root) as registry:
        with registry.alone():
            counts = [0, 0, 0]
            problems += _blobs(registry, repair, counts, watch)
            problems += _manifests(registry, repair, counts)
            problems += _catalog(registry, repair)
            problems += _folders(registry, repair)
            problems += _refused(registry)
            problems += _leftovers(registry, repair)
        if repair and any(one.lost for one in problems):
            problems = _refetched(registry, problems, watch)
        return Checked(tuple(problems), *counts)


def _layout(root: Path, repair: bool) -> Iterator[Problem]:
    if not (root / "blobs" / "sha256").is_dir():
        raise SourceNotFound(f"there is no registry at {root}", "slmops models add makes one")
    try:
        sound = json.loads((root / index.LAYOUT).read_text()) == json.loads(index.VERSION)  # each tool spells it its way
    except (OSError, ValueError, RecursionError):
        sound = False
    if not sound:
        if repair:
            write_whole(root / index.LAYOUT, index.VERSION)
        yield Problem("layout", index.LAYOUT, "missing, or of another version", repair)
    try:
        index.read(root)
        said = "its bytes are not those that were written" if _rotten(root) else ""
    except CorruptInput as fault:
        said = str(fault)
    if said:
        if repair:
            said += f"; {_rebuild(root)}"
        yield Problem("index", index.NAME, said, repair)


def _rotten(root: Path) -> bool:
    """Whether index.json is the very file that the catalog was made from, and hashes to something else."""
    with contextlib.suppress(CorruptInput):  # a catalog that cannot be read is made again
        if Catalog.usable(root / catalog.NAME):
            with contextlib.closing(Catalog(root / catalog.NAME)) as held:
                before, found = index.identity(root), file_digest(root / index.NAME)
                same = held.seen() == before == index.identity(root)
                return same and held.written() not in ("", found)
    return False


def _rebuild(root: Path) -> str:
    """index.json from the manifests among the blobs; tags and origins are what the catalog remembers of them."""
    made = Index()
    for path in (root / "blobs" / "sha256").iterdir():
        if path.stat().st_size > manifest.MOST_BYTES or not path.is_file():
            continue
        content = path.read_bytes()
        if content[:1] != b"{" or Blob.of(content).digest != f"sha256:{path.name}":
            continue
        try:
            found = manifest.parse(content)
        except SlmopsError:
            continue
        made.add(found.digest, found.size, found.artifact_type, policy.LOST)
    try:
        held = Catalog(root / "catalog.sqlite")
        for digest, origin in held.origins().items():
            if digest in made.entries:
                made.add(digest, made.entries[digest]["size"], made.entries[digest]["artifactType"], origin)
        for row in held.rows():
            for tag in row.tags if row.digest in made.entries else ():
                if (reference := references.parse(tag)) is not None:
                    made.tags[reference] = row.digest
        held.close()
    except CorruptInput:
        pass
    made.write(root)
    return f"rebuilt: {len(made.entries)} manifests, {len(made.tags)} tags"


def _blobs(registry: Registry, repair: bool, counts: list[int], watch: Watch) -> Iterator[Problem]:
    paths = sorted(registry.blobs.folder.iterdir())
    watch.begin(sum(path.lstat().st_size for path in paths))
    for path in paths:
        digest = f"sha256:{path.name}"
        if references.DIGEST.fullmatch(digest) is None or path.is_symlink() or not path.is_file():
            yield Problem("blob", path.name, "no blob's name, or no plain file; it is left where it is")
            continue
        identity = Identity.of(path)
        counts[0], counts[1] = counts[0] + 1, counts[1] + identity.size
        try:
            sound, readable = registry.blobs.hash(digest) == digest, True
            said = "its bytes are not what its name says"
        except OSError as error:
            sound, readable, said = False, False, f"it cannot be read: {error.strerror}"
        watch.advance(identity.size)
        if sound:
            registry.catalog.trust([(digest, identity)])
            continue
        registry.catalog.distrust([digest])
        if repair and readable:  # what the disk does not give now, it may give later
            (registry.root / "quarantine").mkdir(exist_ok=True)
            path.rename(registry.root / "quarantine" / path.name)
            said += "; set aside in quarantine/"
        yield Problem("blob", digest, said, lost=digest if repair and readable else "")
    watch.end()


def _manifests(registry: Registry, repair: bool, counts: list[int]) -> Iterator[Problem]:
    held = index.read(registry.root)
    for digest, entry in sorted(held.entries.items()):
        counts[2] += 1
        name = ", ".join(map(str, held.tags_of(digest))) or digest
        try:
            found = registry.manifest(digest)
        except SlmopsError as fault:
            nameless = repair and not held.tags_of(digest)
            if nameless:
                registry.change(lambda edited, gone=digest: edited.drop(gone))  # type: ignore[misc]
            yield Problem("manifest", name, str(fault) + ("; its entry is dropped" if nameless else ""), nameless)
            continue
        if (found.size, found.artifact_type) != (entry["size"], entry["artifactType"] or found.artifact_type):
            yield Problem("index", name, "the index says another size or type than the manifest has")
        yield from _lost(registry, found, name)


def _lost(registry: Registry, found: Manifest, name: str) -> Iterator[Problem]:
    for blob in found.blobs:
        path = registry.blobs.path(blob.digest)
        if not path.is_file():
            said = f"needs {blob.digest}, which is missing: add, pull or import it again"
            yield Problem("manifest", name, said, lost=blob.digest)
        elif path.stat().st_size != blob.size:
            yield Problem("manifest", name, f"needs {blob.digest} of {blob.size:,} bytes, which has another size")


def _refetched(registry: Registry, problems: list[Problem], watch: Watch) -> list[Problem]:
    """With the lost blobs fetched again that an `origin` leads to. Not alone in the registry: others may go on meanwhile."""
    from slmops.registry import remotes

    lost = {one.lost for one in problems if one.lost}
    said: dict[str, str] = {}
    for attached, document in registry.attached("origin"):
        with contextlib.suppress(SlmopsError):
            about = registry.manifest(attached.subject or "")
            wanted = [blob for blob in about.blobs if blob.digest in lost and not registry.blobs.has(blob.digest)]
            source = str(document.get("source", ""))[:200]
            try:
                if wanted:
                    remotes.restore(registry, document, wanted, watch)
                why = f"{source} has it no more, or it was made here"
            except SlmopsError as fault:
                why = f"{source}: {fault}"
            for blob in wanted:
                here = registry.blobs.has(blob.digest)
                said[blob.digest] = f"; fetched again from {source}" if here else f"; cannot be fetched again: {why}"
    return [
        dataclasses.replace(
            one,
            said=one.said + said.get(one.lost, "; nothing tells where it came from"),
            repaired=registry.blobs.has(one.lost),
        )
        if one.lost
        else one
        for one in problems
    ]


def _catalog(registry: Registry, repair: bool) -> Iterator[Problem]:
    said = registry.catalog.sound()
    held = index.read(registry.root)
    if not said:
        tags = {tag: row.digest for row in registry.catalog.rows() for tag in row.tags}
        if tags != {str(one): digest for one, digest in held.tags.items()}:
            said = "it knows other tags than index.json"
        elif registry.catalog.known() != set(held.entries):
            said = "it knows other manifests than index.json"
    if said:
        if repair:
            registry.reindex()
        yield Problem("catalog", "catalog.sqlite", said, repair)


def _folders(registry: Registry, repair: bool) -> Iterator[Problem]:
    held = index.read(registry.root)
    for path in sorted((registry.root / "artifacts").iterdir()):
        said = "no artifact has it"
        digest = f"sha256:{path.name}"
        if digest in held.entries:
            try:
                said = _differs(registry, registry.manifest(digest), path)
            except SlmopsError:
                continue  # told already
        if said:
            if repair:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield Problem("folder", f"artifacts/{path.name}", said, repair)


def _differs(registry: Registry, found: Manifest, folder: Path) -> str:
    for layer in found.layers:
        path, blob = folder / layer.path, registry.blobs.path(layer.blob.digest)
        if not path.is_file():
            return f"{layer.path} is missing"
        if not (blob.is_file() and path.samefile(blob)) and f"sha256:{file_digest(path)}" != layer.blob.digest:
            return f"{layer.path} is not what the manifest says"
    return ""


def _refused(registry: Registry) -> Iterator[Problem]:
    """What the policy would not let be: another tool's edits, or the time before the policy."""
    held = index.read(registry.root)
    for name, digest in held.tags.items():
        if name.tag in registry.policy.approval.tags:
            try:
                approval.require(registry, held, digest, name)
            except SlmopsError as fault:
                yield Problem("policy", str(name), str(fault))
    for row in registry.rows():
        try:
            trust.opening(registry, registry.manifest(row.digest))
        except PolicyRefused as fault:
            yield Problem("policy", ", ".join(row.tags) or row.digest, str(fault))
        except SlmopsError:
            continue  # told already


def _leftovers(registry: Registry, repair: bool) -> Iterator[Problem]:
    for path in gc.leftovers(registry.root):
        if repair:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        yield Problem("leftover", path.relative_to(registry.root).as_posix(), "of a writer that died", repair)


def verify(registry: Registry, digest: str) -> int:
    """Hash every blob of one artifact; bytes that were read. Raises CorruptInput, SourceNotFound."""
    found = registry.manifest(digest)
    for blob in found.blobs:
        placing.check(registry, blob, always=True)
    return sum(blob.size for blob in found.blobs)
