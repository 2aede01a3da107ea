"""The folder that an engine opens: an artifact's files under their own names, sharing the blobs' bytes where that can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.store import file_digest
from slmops.registry import blobs
from slmops.registry.blobs import Blob, Identity
from slmops.registry.manifest import Manifest
from slmops.registry.policy import ALWAYS

if TYPE_CHECKING:
    from slmops.registry.registry import Registry


def placed(registry: Registry, digest: str) -> Path:
    """The folder, made if it is not there; within `writing()`. Raises SourceNotFound, CorruptInput, PolicyRefused."""
    from slmops.registry import trust

    found = registry.manifest(digest)
    if found.subject is not None:
        raise UsageError(f"{digest[:19]} is an attachment, not a model", "slmops models show prints it")
    trust.opening(registry, found)
    final = folder(registry, digest)
    for layer in found.layers:
        check(registry, layer.blob)
    if not all(_same(registry, final / layer.path, layer.blob) for layer in found.layers):
        _link(registry, found, final)
    return final


def folder(registry: Registry, digest: str) -> Path:
    """Where it is or would be."""
    return registry.root / "artifacts" / registry.blobs.path(digest).name


def check(registry: Registry, blob: Blob, *, always: bool = False) -> None:
    """Raises CorruptInput where a blob is not itself, reading it only if nobody did since the file was written."""
    try:
        identity = Identity.of(registry.blobs.path(blob.digest))
    except FileNotFoundError:
        raise SourceNotFound(f"the blob {blob.digest} is missing", "add or import the artifact again") from None
    known = not always and registry.policy.verify != ALWAYS and registry.catalog.trusts(blob.digest, identity)
    if known and identity.size == blob.size:
        return
    if identity.size != blob.size or registry.blobs.hash(blob.digest) != blob.digest:
        registry.catalog.distrust([blob.digest])
        raise blobs.damaged(blob.digest)
    registry.catalog.trust([(blob.digest, identity)])


def _same(registry: Registry, path: Path, blob: Blob) -> bool:
    """Whether a file of a folder is the blob: one file of two names, or a copy that was hashed."""
    try:
        identity = Identity.of(path)
    except OSError:
        return False
    return identity == Identity.of(registry.blobs.path(blob.digest)) or (
        registry.policy.verify != ALWAYS and registry.catalog.trusts(blob.digest, identity)
    )


def _link(registry: Registry, found: Manifest, final: Path) -> None:
    copies: list[tuple[str, Path]] = []
    with registry.scratch() as scratch:
        made = scratch / "made"
        for layer in found.layers:
            path, source = made / layer.path, registry.blobs.path(layer.blob.digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            blobs.share(source, path)
            if not path.samefile(source):
                if f"sha256:{file_digest(path)}" != layer.blob.digest:
                    raise blobs.damaged(layer.blob.digest)
                copies.append((layer.blob.digest, final / layer.path))
        if final.exists():
            final.rename(scratch / "old")
        try:
            made.rename(final)
        except OSError:
            # Another process placed it meanwhile: the same files.
            if not all((final / layer.path).is_file() for layer in found.layers):
                raise
    registry.catalog.trust((digest, Identity.of(path)) for digest, path in copies)
