"""Blobs on their way in: in parallel, resumed where they broke off, proven before they have a name.

    root/partial/<key>        bytes that came so far; the key is what the remote calls the whole (Piece.key)
    root/partial/<key>.lock   held by the process that fetches it; others wait, and then find the blob

A partial outlives a kill, and the next fetch of the same bytes, from wherever, goes on where it ends. gc removes those that
nobody holds and that are older than its grace.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from slmops.core.errors import CorruptInput, NoSpace, Unreachable
from slmops.core.store import file_digest, no_space, sync_file
from slmops.core.units import size
from slmops.core.watch import Watch
from slmops.registry import _lock
from slmops.registry.blobs import CHUNK, Blob, Identity
from slmops.registry.leases import mine
from slmops.registry.registry import DAY, Registry

FOLDER = "partial"
LOCK = ".lock"
KEY = re.compile(r"(sha256|url)-[0-9a-f]{64}|git-[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True)
class Piece:
    """Bytes that a remote has; `size` in bytes."""

    key: str
    """sha256-<hex> of the content; git-<hex>, its SHA-1 as git takes it; url-<hex> of what nobody gave a digest of."""
    size: int

    @staticmethod
    def of(blob: Blob) -> Piece:
        return Piece(blob.digest.replace(":", "-"), blob.size)

    @property
    def blob(self) -> Blob | None:
        """Which one it will be, where the remote knows that."""
        return Blob(self.key.replace("-", ":"), self.size) if self.key.startswith("sha256-") else None


Fill = Callable[[Piece, Path, Callable[[int], None]], None]
"""fill(piece, path, came): append to the file from where it ends now to the piece's end; say came(bytes) as they come.

A negative count takes bytes back, when a server makes it begin anew. Runs in a thread; came() raises when all is called off.
"""


class Fetched(NamedTuple):
    """What came, or was here."""

    blobs: dict[Piece, Blob]
    new: int
    """Bytes that were not here before."""


class CalledOff(BaseException):
    """Another piece failed, or the user has had enough: this one stays as far as it came."""


@contextlib.contextmanager
def fetched(
    registry: Registry,
    pieces: Sequence[Piece],
    fill: Fill,
    *,
    jobs: int = 4,
    most: int | None = None,
    watch: Watch | None = None,
) -> Iterator[Fetched]:
    """All pieces as blobs; those that are here whole are not fetched. gc leaves them alone until the block ends.

    The caller commits within the block what leads to them. most: bytes that may be fetched at most.
    Raises CorruptInput for bytes that are not what the key says, NoSpace, PolicyRefused beyond `most`, what `fill` raises.
    """
    watch = watch or Watch()
    pieces = list(dict.fromkeys(pieces))
    for piece in pieces:
        if KEY.fullmatch(piece.key) is None or piece.size < 0:
            raise CorruptInput(f"{piece.key[:100]!r} is no digest, or its size is none")
    with contextlib.ExitStack() as reserved:
        found: dict[Piece, Blob] = {}
        with registry.writing():
            for piece in pieces:
                if (blob := piece.blob) is not None and here(registry, blob):
                    reserve(registry, blob.digest, reserved)
                    found[piece] = blob
        missing = [piece for piece in pieces if piece not in found]
        _bounds(registry, missing, most)
        watch.begin(sum(piece.size for piece in missing))
        try:
            for piece, blob in _coming(registry, missing, fill, jobs, watch, reserved):
                found[piece] = blob
        finally:
            watch.end()
        yield Fetched(found, sum(piece.size for piece in missing))


def here(registry: Registry, blob: Blob) -> bool:
    """Whether the blob is here whole, which makes it young again; one that changed since it was hashed is not."""
    if not registry.blobs.has(blob.digest):
        return False
    identity = Identity.of(registry.blobs.path(blob.digest))
    if identity.size != blob.size:
        return False
    if not registry.catalog.trusts(blob.digest, identity):
        if registry.blobs.hash(blob.digest) != blob.digest:
            return False
        registry.trust([blob.digest])
    registry.blobs.touch(blob.digest)
    return True


def reserve(registry: Registry, digest: str, until: contextlib.ExitStack) -> None:
    """Keep a blob from gc until the stack closes, though nothing leads to it yet. Within `writing()`."""
    lease = registry.catalog.lease(mine(digest, "being fetched", DAY))
    until.callback(registry.catalog.release, lease)


def sweep(root: Path, grace: float, *, dry_run: bool = False) -> int:
    """Remove partials that nobody fetches and that are older than the grace (seconds); how many."""
    gone = 0
    for name in sorted({path.name.removesuffix(LOCK) for path in (root / FOLDER).glob("*")}):
        path, lock = root / FOLDER / name, root / FOLDER / (name + LOCK)
        newest = max((one.stat().st_mtime for one in (path, lock) if one.exists()), default=0.0)
        with _lock.tried(lock) as ours:
            old = ours and time.time() - newest >= grace
            gone += old
            if old and not dry_run:
                path.unlink(missing_ok=True)
            if ours and not path.exists():
                _forget(lock)
    return gone


def _bounds(registry: Registry, missing: Sequence[Piece], most: int | None) -> None:
    """Raises before a byte is fetched that is not wanted, or that there is no room for."""
    wanted = sum(piece.size for piece in missing)
    if most is not None and wanted > most:
        said = f"{size(wanted)} would be fetched, and {size(most)} are allowed at once"
        raise registry.policy.refused("most_bytes", said, "raise it, or take less")
    held = 0
    for piece in missing:
        with contextlib.suppress(OSError):
            held += (registry.root / FOLDER / piece.key).stat().st_size
    free = shutil.disk_usage(registry.root).free
    if wanted - held > free:
        fault = f"it takes {size(wanted - held)}, and the disk of {registry.root} has {size(free)} left"
        raise NoSpace(fault, "free some: slmops models gc")


def _coming(
    registry: Registry,
    missing: Sequence[Piece],
    fill: Fill,
    jobs: int,
    watch: Watch,
    reserved: contextlib.ExitStack,
) -> Iterator[tuple[Piece, Blob]]:
    """Pieces as they come, each settled and reserved. Threads fetch and hash; the catalog is this thread's alone."""
    off = threading.Event()
    telling = threading.Lock()

    def came(count: int) -> None:
        if off.is_set():
            raise CalledOff
        with telling:
            watch.advance(count)

    # Blobs that are here and not themselves: they are replaced.
    damaged = {piece for piece in missing if piece.blob is not None and registry.blobs.has(piece.blob.digest)}

    def one(piece: Piece) -> tuple[contextlib.ExitStack, Path, Blob | None]:
        """Fetched and proven, and still locked; no blob where another process brought it meanwhile."""
        with contextlib.ExitStack() as locked:
            path = _own(registry.root, piece, lambda: came(0), locked, watch)
            brought = piece.blob is not None and piece not in damaged and registry.blobs.has(piece.blob.digest)
            blob = None if brought else _whole(piece, path, fill, came)
            return locked.pop_all(), path, blob

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        waiting: dict[Future[tuple[contextlib.ExitStack, Path, Blob | None]], Piece] = {}
        waiting = {pool.submit(one, piece): piece for piece in missing}
        try:
            while waiting:
                for done in concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED).done:
                    piece = waiting.pop(done)
                    locked, path, blob = done.result()
                    with locked, registry.writing(), no_space(registry.root):
                        if blob is not None:
                            registry.blobs.settle(path, blob.digest, blob.size)
                            registry.trust([blob.digest])
                        elif (blob := piece.blob) is not None and here(registry, blob):
                            came(piece.size)
                        else:  # gone again, or damaged
                            damaged.add(piece)
                            waiting[pool.submit(one, piece)] = piece
                            continue
                        reserve(registry, blob.digest, reserved)
                    yield piece, blob
        except BaseException:
            off.set()
            for future in waiting:
                future.cancel()
            for future in concurrent.futures.wait(waiting).done:
                if not future.cancelled() and future.exception() is None:
                    future.result()[0].close()
            raise


def _own(root: Path, piece: Piece, pause: Callable[[], None], locked: contextlib.ExitStack, watch: Watch) -> Path:
    """The partial of a piece, which is ours until the stack closes; waits while another process has it."""
    path = root / FOLDER / piece.key
    lock = path.with_name(path.name + LOCK)
    told = False
    while True:
        with no_space(root):
            path.parent.mkdir(exist_ok=True)
            trying = contextlib.ExitStack()
            ours = trying.enter_context(_lock.tried(lock))
        if ours:
            locked.push(trying)
            # Where it is a partial no more, nobody needs its lock: removed while it is held.
            locked.callback(lambda: None if path.exists() else _forget(lock))
            return path
        trying.close()
        if not told:
            watch.say(f"another process fetches {piece.key[:19]}: waiting")
            told = True
        pause()
        time.sleep(0.1)


def _forget(lock: Path) -> None:
    with contextlib.suppress(OSError):  # Windows: somebody waits for it
        lock.unlink()


def _whole(piece: Piece, path: Path, fill: Fill, came: Callable[[int], None]) -> Blob:
    """Bring a partial to its end, and prove it. What was kept and proves wrong is fetched anew, once."""
    with no_space(path):
        path.touch()
        kept = path.stat().st_size
        if kept > piece.size:
            os.truncate(path, 0)
            kept = 0
        came(kept)
        if kept < piece.size:
            fill(piece, path, came)
        sync_file(path)
        blob = proven(piece, path)
        if blob is None and kept > 0:
            came(-path.stat().st_size)
            os.truncate(path, 0)
            fill(piece, path, came)
            sync_file(path)
            blob = proven(piece, path)
    if blob is None:
        path.unlink()
        raise CorruptInput(
            f"the bytes of {piece.key} are not what they claim", "pull again; if it stays so, tell who serves them"
        )
    return blob


def git_hash(path: Path) -> str:
    """What git calls a file's content: its SHA-1 as a blob."""
    hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def proven(piece: Piece, path: Path) -> Blob | None:
    """What a file is as a blob, if it is the piece. Raises Unreachable where it is a part of it."""
    found = path.stat().st_size
    if found < piece.size:
        raise Unreachable(
            f"{piece.key[:19]} broke off after {size(found)} of {size(piece.size)}", "pull again: it goes on there"
        )
    blob = Blob(f"sha256:{file_digest(path)}", found)
    git = piece.key.startswith("git-")
    same = f"git-{git_hash(path)}" == piece.key if git else piece.blob in (None, blob)
    return blob if same and found == piece.size else None
