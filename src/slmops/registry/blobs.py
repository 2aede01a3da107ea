"""Blobs by their sha256, as an OCI image layout keeps them: blobs/sha256/<hex>, read-only, whole or not there.

Order of every write: a temporary file on the same disk, hashed as it is written -> fsync -> rename -> fsync of the folder.
Layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.core.store import file_digest, no_space, sync_file, sync_folder
from slmops.registry import references

CHUNK = 1 << 20
"""Read at once: what is hashed and written next is still in the processor's cache."""
FICLONE = 0x40049409
"""linux/fs.h: share the extents of another file (btrfs, XFS, bcachefs)."""
NEW_MODE = 0o444


@dataclass(frozen=True)
class Blob:
    """What a descriptor says of a blob; `size` in bytes."""

    digest: str
    size: int

    @staticmethod
    def of(content: bytes) -> Blob:
        return Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class Identity:
    """What tells a file from another without reading it. Not ctime: hard links change that."""

    device: int
    inode: int
    size: int
    mtime: int

    @staticmethod
    def of(path: Path) -> Identity:
        found = path.stat()
        return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Blobs:
    """The blobs below a registry's root. `trusts` says whether a file of this identity was seen to have this digest."""

    def __init__(self, root: Path, trusts: Callable[[str, Identity], bool]) -> None:
        self.folder = root / "blobs" / "sha256"
        self.scratch = root / "scratch"
        self._trusts = trusts

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises CorruptInput for what is no digest."""
        return self.folder / references.digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def all(self) -> Iterator[str]:
        """Digests of all blobs, in no order; other names are left out."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if references.DIGEST.fullmatch(name := f"sha256:{entry.name}") and entry.is_file(follow_symlinks=False):
                    yield name

    def add(self, source: Path, *, take: bool = False) -> Blob:
        """A file's content: one read, hashed as it is copied, or shared with the source where the disk can.

        take: the source is ours, and nobody else's: it is moved, not copied, where it is on the same disk.
        Raises SourceNotFound, NoSpace, and CorruptInput for what is no regular file.
        """
        with _opened(source) as handle:
            size = os.fstat(handle.fileno()).st_size
            if take:
                digest = f"sha256:{file_digest(source)}"
                sync_file(source)
                with contextlib.suppress(OSError):  # another disk
                    self.settle(source, digest, size)
                    return Blob(digest, size)
            with self._temporary() as temporary:
                if clone(handle, temporary):
                    digest = f"sha256:{file_digest(temporary)}"
                    size = temporary.stat().st_size
                    sync_file(temporary)
                else:
                    digest, size = _pour(handle, temporary, None)
                self.settle(temporary, digest, size)
        return Blob(digest, size)

    def put(self, content: bytes) -> Blob:
        """A small blob from memory."""
        blob = Blob.of(content)
        with self._temporary() as temporary:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            self.settle(temporary, blob.digest, blob.size)
        return blob

    def receive(self, stream: BinaryIO, wanted: Blob) -> None:
        """A stranger's bytes, which get their name only after they proved to be what it says. Raises CorruptInput."""
        with self._temporary() as temporary:
            digest, size = _pour(stream, temporary, wanted.size)
            if (digest, size) != (wanted.digest, wanted.size):
                raise CorruptInput(f"the bytes of {wanted.digest} are not what they claim", "fetch them again")
            self.settle(temporary, digest, size)

    def read(self, digest: str, most: int) -> bytes:
        """A small blob, checked. Raises SourceNotFound, or CorruptInput where it is larger than `most` or not itself."""
        path = self.path(digest)
        try:
            with path.open("rb") as handle:
                content = handle.read(most + 1)
        except FileNotFoundError:
            raise SourceNotFound(f"the blob {digest} is missing", "slmops models fsck says what needs it") from None
        if len(content) > most:
            raise CorruptInput(f"the blob {digest} is larger than {most:,} bytes", "slmops models fsck")
        if Blob.of(content).digest != digest:
            raise damaged(digest)
        return content

    def hash(self, digest: str) -> str:
        """What the blob's bytes hash to now."""
        return f"sha256:{file_digest(self.path(digest))}"

    def age(self, digest: str) -> float:
        """Seconds since it was written, linked, or asked for again by `add`."""
        found = self.path(digest).stat()
        return time.time() - max(found.st_mtime, found.st_ctime)

    def touch(self, digest: str) -> None:
        """Make it young again: utime moves ctime even where it leaves mtime, and so the file's identity, as it was."""
        path = self.path(digest)
        found = path.stat()
        if os.name == "nt":  # has no such ctime: the file is read again by who asks for it next
            os.utime(path)
        else:
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self.scratch / f"{os.getpid()}.{os.urandom(8).hex()}"
        try:
            with no_space(self.folder):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def settle(self, temporary: Path, digest: str, size: int) -> None:
        """Give a finished file, hashed and on the disk, its name.

        One that is there already stays if it can be trusted, and is replaced if not.
        """
        final = self.path(digest)
        with contextlib.suppress(FileNotFoundError):
            held = Identity.of(final)
            if held.size == size and self._trusts(digest, held):
                self.touch(digest)
                temporary.unlink()
                return
        temporary.chmod(NEW_MODE)
        try:
            temporary.replace(final)
        except PermissionError:  # Windows, while an engine maps it: what is open there cannot be replaced
            if not final.is_file() or self.hash(digest) != digest:
                raise
        sync_folder(final.parent)


def damaged(digest: str) -> CorruptInput:
    """A blob whose bytes have changed."""
    return CorruptInput(
        f"the blob {digest} is damaged: its bytes are not what its name says",
        "slmops models fsck --repair sets it aside; then add or import the artifact again",
    )


def clone(source: BinaryIO, target: Path) -> bool:
    """Make the target a reflink of the source: own file, shared extents. False where the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    with target.open("wb") as handle:
        try:
            fcntl.ioctl(handle.fileno(), FICLONE, source.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            return False
    return True


def share(source: Path, target: Path) -> None:
    """The source's content under a second name, read-only: a hard link, else a reflink, else a copy."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    with source.open("rb") as handle:
        if not clone(handle, target):
            with target.open("wb") as copy:
                shutil.copyfileobj(handle, copy, CHUNK)
                copy.flush()
                os.fsync(copy.fileno())
    target.chmod(NEW_MODE)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, opened for reading; not what a link leads to."""
    try:
        if path.is_symlink() or not path.is_file():
            raise CorruptInput(f"{path} is no regular file", "copy what it leads to into its place")
        handle = path.open("rb")
    except FileNotFoundError:
        raise SourceNotFound(f"there is no file {path}", "make the artifact again") from None
    with handle:
        yield handle


def _pour(source: BinaryIO, target: Path, most: int | None) -> tuple[str, int]:
    """Copy to disk and hash on the way, a chunk at a time; stops with one byte more than `most`."""
    hashed, size = hashlib.sha256(), 0
    with target.open("wb", buffering=0) as handle:
        while chunk := source.read(CHUNK if most is None else min(CHUNK, most + 1 - size)):
            hashed.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:  # a write may take less than it was given
                view = view[handle.write(view) :]
            if most is not None and size > most:
                break
        os.fsync(handle.fileno())
    return "sha256:" + hashed.hexdigest(), size
