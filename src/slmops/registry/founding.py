"""Where a registry lies, and how one begins: the layout's two files, and an empty catalog."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from slmops.core.errors import CorruptInput
from slmops.core.store import sync_folder, write_whole
from slmops.registry import _lock, catalog, index
from slmops.registry.catalog import Catalog
from slmops.registry.index import Index


def home() -> Path:
    """SLMOPS_HOME, or the platform's place for an application's data."""
    if given := os.environ.get("SLMOPS_HOME"):
        return Path(given)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "slmops"
    if os.uname().sysname == "Darwin":
        return Path.home() / "Library" / "Application Support" / "slmops"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "slmops"


def exists(root: Path) -> bool:
    """Whether a registry was made there."""
    return (root / index.LAYOUT).is_file()


def layout(root: Path) -> None:
    """Write the layout's two files where they are missing. A lost index of a registry with blobs is not replaced."""
    with _lock.held(root / "index.lock"):
        if not (root / index.NAME).exists():
            with os.scandir(root / "blobs" / "sha256") as entries:
                lost = exists(root) and any(True for _ in entries)
            if lost:
                raise CorruptInput(f"{root / index.NAME} is missing", "slmops models fsck --repair rebuilds it")
            Index().write(root)
        if not exists(root):
            write_whole(root / index.LAYOUT, index.VERSION)


def empty_catalog(root: Path) -> None:
    """Make an empty catalog; one that cannot be read is set aside. Under the index's lock."""
    path = root / catalog.NAME
    if Catalog.usable(path):
        return  # another process was first
    try:
        with contextlib.closing(Catalog(path)) as made:
            made.create()
    except CorruptInput:
        aside(root)
        with contextlib.closing(Catalog(path)) as made:
            made.create()


def aside(root: Path) -> None:
    """Move a catalog out of the way; the next gc removes it."""
    for suffix in ("", "-wal", "-shm"):
        held = root / f"{catalog.NAME}{suffix}"
        if held.exists():
            held.rename(root / "scratch" / f"0.{held.name}.{os.urandom(4).hex()}")
    sync_folder(root)
