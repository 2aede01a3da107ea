"""Folders that appear whole or not at all, and a store of them by digest.

`staged` is how anything is written: into a temporary sibling, forced to disk, renamed. `Store` keeps finished folders
under the sha256 of their contents, and remembers which step made which. OCI, catalog and leases come with the registry.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, NoSpace, OutputExists

CHUNK = 1 << 20


@contextlib.contextmanager
def no_space(where: Path) -> Iterator[None]:
    """Turn a full disk, or a file larger than it takes, into NoSpace; every other OSError passes."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(f"no space left on the disk of {where}", "free some, or choose another -o") from error
        raise


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk where the system can (not on Windows)."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: Path) -> None:
    """Force a file's bytes to disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_whole(path: Path, text: str) -> None:
    """A text file that appears whole or not at all, in place of what stood there. Raises NoSpace."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with no_space(path), temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(final: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `final` that becomes `final` when the block ends well, and vanishes when it does not.

    A folder left by a killed process (`.NAME.*.partial`) is swept by the next one. Raises OutputExists when `final` is
    there and not empty, unless `replace`.
    """
    final = final.absolute()
    if not replace:
        refuse_existing(final)
    with no_space(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.{os.getpid()}.", suffix=".partial", dir=final.parent))
    try:
        with no_space(folder):
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    sync_file(path)
            sync_folder(folder)
        publish(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(final: Path) -> None:
    """Raises OutputExists when something stands under the final name (an empty folder does not count)."""
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists() or final.is_symlink():
        raise OutputExists(f"{final} is already there", "choose another -o, or --force to replace it")


def publish(folder: Path, final: Path) -> None:
    """Rename a finished folder to its final name; what stood there goes only after the new one is in place."""
    # mkdtemp is private to its owner; an artifact is for everyone that the umask lets in.
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    aside = None
    if final.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.{os.getpid()}.", suffix=".partial", dir=final.parent))
        final.rename(aside / "old")
    folder.rename(final)
    sync_folder(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(final: Path) -> None:
    """Remove what a dead process left for this very name; a live process's folder stays."""
    for left in final.parent.glob(f".{final.name}.*.partial"):
        pid = left.name.removeprefix(f".{final.name}.").split(".", 1)[0]
        if pid.isdigit() and int(pid) != os.getpid() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def file_digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> {size, sha256} of every file below the folder, sorted."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(value: Any) -> str:
    """sha256 of a JSON value in its one canonical spelling, hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Finished folders by the digest of their manifest, under `root`.

    root/folders/sha256-<hex>/...      the folders; immutable
    root/steps/<key>.json              step key -> digest of what it made
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def default() -> Store:
        """SLMOPS_HOME, or the platform's place for an application's data."""
        if home := os.environ.get("SLMOPS_HOME"):
            return Store(Path(home))
        if os.name == "nt":
            return Store(Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "slmops")
        if os.uname().sysname == "Darwin":
            return Store(Path.home() / "Library" / "Application Support" / "slmops")
        return Store(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "slmops")

    def path(self, name: str) -> Path:
        """Where the folder of this digest is or would be."""
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise CorruptInput(f"{name!r} is not a sha256 digest")
        return self.root / "folders" / f"sha256-{name}"

    def add(self, folder: Path) -> str:
        """Take a finished folder in (it is moved, from the same disk) and return its digest. Twice the same is once."""
        name = digest(manifest(folder))
        final = self.path(name)
        with no_space(self.root):
            final.parent.mkdir(parents=True, exist_ok=True)
            for path in folder.rglob("*"):
                if path.is_file():
                    sync_file(path)
            if final.exists():
                shutil.rmtree(folder)
            else:
                try:
                    folder.rename(final)
                except OSError:
                    # Somebody else added the same digest meanwhile; anything else is a real fault.
                    if not final.exists():
                        raise
                    shutil.rmtree(folder)
            sync_folder(final.parent)
        return name

    def check(self, name: str) -> bool:
        """Whether the folder of this digest is there and every byte is what the digest says."""
        folder = self.path(name)
        return folder.is_dir() and digest(manifest(folder)) == name

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the store's disk, removed at the end if it is still there."""
        home = self.root / "scratch"
        with no_space(self.root):
            home.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}.", dir=home))
        try:
            with no_space(self.root):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def recall(self, key: str) -> str | None:
        """The digest that the step of this key made, if its folder is still there."""
        try:
            name = str(json.loads((self.root / "steps" / f"{key}.json").read_text())["digest"])
        except (OSError, ValueError, KeyError):
            return None
        return name if self.path(name).is_dir() else None

    def remember(self, key: str, name: str, facts: dict[str, Any]) -> None:
        """Record that the step of this key made this digest."""
        home = self.root / "steps"
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=home, suffix=".partial", delete=False, encoding="utf-8") as handle:
            json.dump({"digest": name, **facts}, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        Path(handle.name).replace(home / f"{key}.json")
        sync_folder(home)
