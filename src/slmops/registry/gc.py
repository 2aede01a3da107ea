"""gc: remove what no name and no lease leads to, when it has been so for its grace; nothing that is being written."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.core.store import alive
from slmops.registry import fetching
from slmops.registry.index import Index
from slmops.registry.manifest import Manifest
from slmops.registry.registry import DAY, Registry


@dataclass(frozen=True)
class Swept:
    """What went, or would go."""

    artifacts: tuple[str, ...]
    blobs: int
    bytes: int
    """Of blobs; what another name of the same file still holds comes back when that goes."""
    leased: tuple[str, ...]
    """Without a name, and kept for a lease."""
    young: tuple[str, ...]
    """Without a name, and kept for their grace."""
    leftovers: int
    """Of writers that died, and of fetches that nobody goes on with."""


def sweep(registry: Registry, grace: float = DAY, *, dry_run: bool = False) -> Swept:
    """Collect. grace: seconds since an artifact lost its last name, and since a blob was last written or asked for.

    Waits for writers. Raises CorruptInput, and removes nothing, where a manifest that something leads to cannot be read:
    what it needs is then unknown.
    """
    with registry.alone():
        leased = {one.digest for one in registry.catalog.leases()}
        gone: list[str] = []
        young: list[str] = []
        spared: list[str] = []
        blobs: list[str] = []

        def edit(held: Index) -> None:
            found = {digest: _read(registry, digest) for digest in held.entries}
            kept = set(held.tags.values())
            for digest, manifest in found.items():
                if digest in kept or manifest.subject in found:
                    continue
                why = spared if digest in leased else young if registry.blobs.age(digest) < grace else gone
                why.append(digest)
            gone.extend(digest for digest, one in found.items() if one.subject in gone)
            needed: set[str] = {str(entry["digest"]) for entry in held.foreign}
            for digest in found.keys() - set(gone):
                needed |= {digest, *(blob.digest for blob in found[digest].blobs)}
            if held.foreign:
                needed |= set(registry.blobs.all())  # another tool's manifests: what they lead to is not ours to judge
            old = [one for one in registry.blobs.all() if one not in needed and one not in leased]
            blobs.extend(one for one in old if one in found or registry.blobs.age(one) >= grace)
            if not dry_run:
                for digest in gone:
                    held.drop(digest)

        # Names first, then folders, then bytes: a kill in between leaves what the next sweep takes.
        registry.change(edit)
        size = sum(registry.blobs.path(one).stat().st_size for one in blobs)
        left = leftovers(registry.root)
        partial = fetching.sweep(registry.root, grace, dry_run=dry_run)
        if not dry_run:
            kept = {path.name for path in map(registry.blobs.path, registry.entries())}
            for folder in (registry.root / "artifacts").iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)
            for digest in blobs:
                registry.blobs.path(digest).unlink(missing_ok=True)
            registry.catalog.distrust(blobs)
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return Swept(tuple(gone), len(blobs), size, tuple(spared), tuple(young), len(left) + partial)


def _read(registry: Registry, digest: str) -> Manifest:
    try:
        return registry.manifest(digest)
    except (CorruptInput, SourceNotFound) as fault:
        raise CorruptInput(
            f"the manifest {digest} cannot be read, so what it needs is unknown: {fault}",
            "slmops models fsck says what is lost; slmops models rm takes its names away, fsck --repair its entry",
        ) from fault


def leftovers(root: Path) -> list[Path]:
    """What writers left that live no more: names start with their process id, and 0 is nobody's."""
    found = []
    for path in (root / "scratch").iterdir():
        pid = path.name.partition(".")[0]
        if pid.isdigit() and (pid == "0" or not alive(int(pid)) or time.time() - path.lstat().st_mtime > 30 * DAY):
            found.append(path)
    # core/store.write_whole's own, beside index.json: .NAME.PID.partial
    for path in root.glob(".*.partial"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not alive(int(pid)):
            found.append(path)
    return found
