"""What is on this machine already: an OCI image layout (a folder or a .tar), an artifact's folder, a model's, or a .gguf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops.core.errors import SourceNotFound
from slmops.core.watch import Watch
from slmops.registry import archive, founding, plain
from slmops.registry.archive import Taken
from slmops.registry.blobs import Blob
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted, _files

PREFIXES = ("file:",)
OPTIONS = ()


def origin(where: str) -> str:
    return f"file:{_path(where).resolve().as_posix()}"


def pull(registry: Registry, where: str, wanted: Wanted, watch: Watch) -> Taken:
    """Raises what archive.receive and Registry.add raise. Where it came from is not remembered: paths are of one machine."""
    path = _path(where)
    if founding.exists(path) or path.suffix == ".tar":
        with archive.opened(path) as source:
            return archive.receive(registry, source, rename=wanted.name, replace=wanted.replace)
    _files.refuse_unsigned(registry, origin(where))
    found = plain.described(path)
    name = wanted.name or plain.name_of(found.facts)
    before = set(registry.blobs.all())
    digest = registry.take_in(found.facts, found.files, name, origin=origin(where), replace=wanted.replace)
    blobs = {layer.blob for layer in registry.manifest(digest).layers}
    return Taken((digest,), (name,), sum(blob.size for blob in blobs if blob.digest not in before), plain.notes(found.left))


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch) -> None:
    raise SourceNotFound("it came from this machine", "add or import it again")


def _path(where: str) -> Path:
    path = Path(where.removeprefix("file:")).expanduser().absolute()
    if not path.exists():
        raise SourceNotFound(f"there is no file or folder {path}", "check the path")
    return path
