"""Folders and files that appear whole or not at all.

`staged` is how anything is written: into a temporary sibling, forced to disk, renamed. What is kept by its digest is in
the registry.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmops.core.errors import NoSpace, OutputExists


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
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, AttributeError):
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have no fsync of folders; a fault of the disk is another matter.
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Force a file's bytes to disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_whole(path: Path, text: str, mode: int | None = None) -> None:
    """A text file that appears whole or not at all, in place of what stood there. Raises NoSpace.

    mode: of a file that is not for everyone that the umask lets in.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if mode is not None:
            temporary.touch(mode)
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
        _sweep(final.parent, f".{final.name}.")
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


def _sweep(parent: Path, prefix: str) -> None:
    """Remove folders that dead processes left: those called `prefix`, a process's number and a dot. A live one's stay."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        pid = left.name.removeprefix(prefix).partition(".")[0]
        if pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A temporary folder that vanishes when the block ends. What killed processes of this machine left of theirs, which may
    be gigabytes, goes first."""
    parent = Path(tempfile.gettempdir())
    ours = f"slmops-{socket.gethostname()}."  # processes of another machine, or container, have numbers of their own
    _sweep(parent, ours)
    with no_space(parent):
        folder = Path(tempfile.mkdtemp(prefix=f"{ours}{os.getpid()}.{purpose}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether there is a process of this id."""
    import psutil

    return bool(psutil.pid_exists(pid))


def file_digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value in its one canonical spelling, hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
