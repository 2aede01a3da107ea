"""A blob on its way into a repository of an OCI registry: not at all where it is there, mounted, whole, or in chunks.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md; endpoints have their numbers there (end-1 ...).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from slmops.core.errors import CorruptInput, Unreachable, UsageError
from slmops.core.store import write_whole
from slmops.registry import _http
from slmops.registry._distribution import Repository
from slmops.registry.blobs import Blob

CHUNK = 64 << 20
"""Bytes of one PATCH: what is sent again at most when a connection breaks. Smaller blobs go whole."""
PIECE = 1 << 20
COMMIT_SECONDS = 600.0
"""That a registry may take to hash and store what it got."""
TRIES = 3
"""Uploads that are begun anew because the registry lost what it had."""


class Lost(Exception):
    """The registry has forgotten an upload, or has another part of it than was sent: it is begun anew."""


def upload(
    there: Repository,
    blob: Blob,
    path: Path,
    came: Callable[[int], None] = lambda _: None,
    *,
    near: Sequence[str] = (),
    session: Path | None = None,
) -> bool:
    """Bring a blob there, unless it is; whether bytes were sent.

    near: repositories of the same registry that may have it. session: a file that remembers an upload that was cut off.
    came(bytes) as they go, negative where they go again. Raises Unreachable, Unsupported.
    """
    meter = _Meter(came)
    kept = _kept(there, session) if blob.size > CHUNK else None
    location = None if there.has(blob) else kept or _mounted(there, blob, near)
    if location is None:
        meter.to(blob.size)
        return False
    for attempt in range(TRIES):
        try:
            if blob.size > CHUNK:
                _chunks(there, location, location == kept, blob, path, meter, session)
            else:
                _put(there, location, blob, path, meter)
            break
        except Lost as lost:
            # Where an answer was lost, not the upload, the blob is there.
            if there.has(blob):
                break
            if attempt == TRIES - 1:
                cure = "run it again; if it stays so, see the log of the registry"
                raise Unreachable(f"{there.place} lost the upload of {blob.digest[:19]}: {lost}", cure) from None
            location, kept = _started(there), None
    meter.to(blob.size)
    if session is not None:
        session.unlink(missing_ok=True)
    return True


def _mounted(there: Repository, blob: Blob, near: Sequence[str]) -> str | None:
    """None where another repository had it (end-11), else the URL of an upload (end-4a)."""
    for other in near:
        there.tokens.scope(f"repository:{other}:pull")
        url = f"{there.base}/blobs/uploads/?mount={quote(blob.digest)}&from={quote(other, safe='')}"
        # Refused is as good as not there: the blob is then sent.
        answer = there.http.request("POST", url, expect=(201, 202, 400, 401, 403, 404, 405))
        if answer.status == 201:
            return None
        if answer.status == 202 and other == near[-1]:
            return _location(there, answer, url)
    return _started(there)


def _started(there: Repository) -> str:
    url = f"{there.base}/blobs/uploads/"
    return _location(there, there.http.request("POST", url, expect=(202,)), url)


def _location(there: Repository, answer: _http.Answer, url: str) -> str:
    location = urljoin(url, answer.headers.get("Location", url))
    if there.root.startswith("https:") and not location.startswith("https:"):
        cure = "whoever runs it must tell it its own name (X-Forwarded-Proto)"
        raise CorruptInput(f"{there.place} wants the upload without encryption, at {_http.shown(location)}", cure)
    return location


def _put(there: Repository, location: str, blob: Blob, path: Path, meter: _Meter, begin: int = 0) -> None:
    """The rest of a blob, and its end (end-6). Raises Lost."""
    joint = "&" if urlsplit(location).query else "?"
    answer = there.http.request(
        "PUT",
        f"{location}{joint}digest={quote(blob.digest)}",
        headers={"Content-Type": "application/octet-stream", "Content-Length": str(blob.size - begin)},
        body=lambda: _pieces(path, begin, blob.size, meter),
        expect=(201, 400, 404, 416),
        seconds=COMMIT_SECONDS,
    )
    if answer.status != 201:
        raise Lost(str(_http.fault(answer)))


def _chunks(
    there: Repository, location: str, kept: bool, blob: Blob, path: Path, meter: _Meter, session: Path | None
) -> None:
    """A large blob in pieces (end-5), from where the registry has it. Raises Lost."""
    location, begin = _status(there, location) if kept else (location, 0)
    if begin > blob.size:
        raise Lost(f"it has {begin} bytes of {blob.size}")
    while begin < blob.size:
        if session is not None:
            session.parent.mkdir(exist_ok=True)
            write_whole(session, location)
        end = min(begin + CHUNK, blob.size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - begin)}
        answer = there.http.request(
            "PATCH",
            location,
            headers={**headers, "Content-Range": f"{begin}-{end - 1}"},
            body=lambda begin=begin, end=end: _pieces(path, begin, end, meter),  # type: ignore[misc]
            expect=(202, 400, 404, 416),
        )
        if answer.status in (400, 404):
            raise Lost(str(_http.fault(answer)))
        location = _location(there, answer, location)
        # 416: a try that broke off has left a part of it there.
        come = _offset(answer) if answer.status == 416 else end
        if come is None or not begin < come <= end:
            raise Lost(f"it has {come} bytes, and was sent {end}")
        begin = come
    _put(there, location, blob, path, meter, begin)


def _status(there: Repository, location: str) -> tuple[str, int]:
    """Where an upload stands (end-13). Raises Lost."""
    answer = there.http.request("GET", location, expect=(200, 204, 400, 404, 405))
    offset = _offset(answer)
    if answer.status not in (200, 204) or offset is None:
        raise Lost("it knows the upload no more")
    return _location(there, answer, location), offset


def _kept(there: Repository, session: Path | None) -> str | None:
    """The URL of an upload of this blob that was cut off."""
    with contextlib.suppress(OSError, ValueError, UsageError):
        text = session.read_text(encoding="utf-8") if session is not None else ""
        if len(text) < 10_000 and text.startswith(there.root.partition("/")[0]):
            return _http.checked(text)
    return None


class _Meter:
    """Bytes that were told, which are taken back when a piece goes again."""

    def __init__(self, came: Callable[[int], None]) -> None:
        self._came, self._at = came, 0

    def to(self, position: int) -> None:
        if position != self._at:
            self._came(position - self._at)
            self._at = position


def _pieces(path: Path, begin: int, end: int, meter: _Meter) -> Iterator[bytes]:
    meter.to(begin)
    with path.open("rb") as handle:
        handle.seek(begin)
        while begin < end and (piece := handle.read(min(PIECE, end - begin))):
            yield piece
            begin += len(piece)
            meter.to(begin)


def _offset(answer: _http.Answer) -> int | None:
    """Bytes that the registry has of an upload: Range is `0-<last>`; 0-0 where it has none."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d{1,19})", answer.headers.get("Range", ""))
    return None if match is None else int(match[1]) + 1 if int(match[1]) else 0
