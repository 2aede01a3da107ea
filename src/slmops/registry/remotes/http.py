"""A web server. https://host/file.gguf#sha256=..., or a folder, whose address ends with a slash, and which holds either

    index.json and blobs/sha256/     an OCI image layout, as `slmops models export` writes it to a folder
    SHA256SUMS                       a line a file, as `sha256sum * > SHA256SUMS` writes it

Digests make that bytes come whole; who is to be believed is a matter of https, and of signatures (docs/trust.md).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from slmops.core import hosts
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported, UsageError
from slmops.core.watch import Watch
from slmops.registry import _http, archive, contents, fetching, index, manifest
from slmops.registry._http import Client
from slmops.registry.archive import Taken
from slmops.registry.blobs import Blob
from slmops.registry.fetching import Piece
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted, _files
from slmops.registry.remotes._files import Listing

PREFIXES = ("https://", "http://")
OPTIONS = ("patterns", "variant", "unverified", "plain_http")
SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
PINNED = re.compile(r"sha256=([0-9a-f]{64})", re.ASCII)
MOST_FILES = 1000
"""Of a folder: each is asked for its size."""


def origin(where: str) -> str:
    """Without query and fragment: they may hold secrets. Raises UsageError."""
    parts = urlsplit(_http.checked(where))
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path, "", ""))


def pull(registry: Registry, where: str, wanted: Wanted, watch: Watch) -> Taken:
    """Raises UsageError, SourceNotFound, Unreachable, and what archive.receive and _files.pull raise."""
    parts = urlsplit(where)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, parts.query, ""))
    pin = PINNED.fullmatch(parts.fragment)
    if parts.fragment and pin is None:
        raise UsageError(f"#{parts.fragment[:80]} is no digest", "write #sha256= and 64 hexadecimal digits")
    if parts.scheme.lower() == "http" and pin is None and not wanted.plain_http and not hosts.own(parts.hostname):
        raise UsageError(f"{origin(where)} is not encrypted", "use https, add #sha256=..., or allow it: --plain-http")
    if parts.path.endswith("/") and parts.query:
        raise UsageError(f"{origin(where)} is a folder, whose files are asked for by their paths", "leave the query out")
    with Client(url) as client:
        if not parts.path.endswith("/"):
            return _file(registry, client, url, pin, wanted, watch)
        if pin is not None or wanted.unverified:
            raise UsageError("digests of a folder's files stand in the folder", "leave #sha256 and --unverified out")
        answer = client.request("GET", f"{url}{index.NAME}", expect=(200, 404), most=archive.MOST_INDEX)
        if answer.status == 200:
            return _layout(registry, client, url, index.parse(answer.body, answer.url), wanted, watch)
        return _folder(registry, client, url, wanted, watch)


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch) -> None:
    """Raises what fetching raises. A folder's files are by now others, or not: their digests tell."""
    url = str(document["source"])
    with Client(url) as client:
        if "files" in document:
            _files.restore(registry, document, lost, _bring(client, url), watch)
            return
        places = {Piece.of(blob): _blob(blob) for blob in lost}
        fill = _files.filling(places, _bring(client, url))
        with fetching.fetched(registry, list(places), fill, most=registry.policy.most_bytes, watch=watch):
            pass


def _file(registry: Registry, client: Client, url: str, pin: re.Match[str] | None, wanted: Wanted, watch: Watch) -> Taken:
    """A single .gguf; one without a digest only if the user says so."""
    base = unquote(urlsplit(url).path).rpartition("/")[2]
    if not base.lower().endswith(".gguf"):
        raise Unsupported(f"{base[:100]!r} is no .gguf", "of a folder, give its address with a slash at the end")
    if pin is None and not wanted.unverified:
        fault = f"nobody says what {origin(url)} must be"
        raise UsageError(fault, "add #sha256= and its digest, or take it as it comes: --unverified")
    size = _size(client, url)
    key = f"sha256-{pin[1]}" if pin else f"url-{hashlib.sha256(url.encode()).hexdigest()}"
    listing = Listing(
        what=origin(url), origin=origin(url), source=origin(url), files={base: Piece(key, size)}, name=base[:-5]
    )

    def bring(path: str, target: Path, size: int, came: Callable[[int], None]) -> None:
        if pin is None:  # what came before may have been another file
            came(-target.stat().st_size)
            os.truncate(target, 0)
        client.append(url, target, size, came)

    return _files.pull(registry, listing, bring, wanted, watch)


def _folder(registry: Registry, client: Client, url: str, wanted: Wanted, watch: Watch) -> Taken:
    """Files that SHA256SUMS lists."""
    try:
        text = client.request("GET", f"{url}{SUMS}", most=archive.MOST_INDEX).body.decode()
    except UnicodeDecodeError:
        raise CorruptInput(f"{url}{SUMS} is not text") from None
    except SourceNotFound as fault:
        cure = f"it needs an OCI image layout (slmops models export -o FOLDER), or {SUMS} (sha256sum * > {SUMS})"
        raise SourceNotFound(f"{origin(url)} has neither {index.NAME} nor {SUMS} ({fault})", cure) from None
    sums: dict[str, str] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None or len(sums) > MOST_FILES:
            raise CorruptInput(f"{origin(url)}{SUMS} has a line that sha256sum does not write: {line[:80]!r}")
        if (name := match[2].removeprefix("./")) != SUMS and "/." not in f"/{name}" and not contents.runs(name):
            sums[name] = match[1]
    manifest.check_paths(list(sums))
    files = {name: Piece(f"sha256-{digest}", _size(client, url + quote(name))) for name, digest in sums.items()}
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or (urlsplit(url).hostname or "model")
    listing = Listing(what=origin(url), origin=origin(url), source=origin(url), files=files, name=name)
    return _files.pull(registry, listing, _bring(client, url), wanted, watch)


def _layout(registry: Registry, client: Client, url: str, offered: index.Index, wanted: Wanted, watch: Watch) -> Taken:
    """All artifacts of an OCI image layout: manifests first, then blobs, then names."""
    if wanted.variant or wanted.patterns or wanted.unverified:
        raise UsageError(f"{origin(url)} is an OCI image layout, which is taken whole", "leave the other options out")
    held: dict[str, bytes] = {}
    pieces: dict[Piece, str] = {}
    for digest, entry in offered.entries.items():
        blob = Blob(digest, int(entry["size"]))
        if blob.size > manifest.MOST_BYTES or len(held) >= archive.MOST_ENTRIES:
            raise CorruptInput(f"{origin(url)} has a manifest of {blob.size:,} bytes, or too many", "export it again")
        held[digest] = client.request("GET", url + _blob(blob), most=blob.size).body
        if Blob.of(held[digest]) != blob:
            raise CorruptInput(f"the bytes of {digest} are not what they claim", "export it again")
        pieces |= {Piece.of(one): _blob(one) for one in manifest.parse(held[digest]).blobs}
    fill = _files.filling(pieces, _bring(client, url))
    inside = fetching.fetched(registry, list(pieces), fill, jobs=wanted.jobs, most=wanted.most_bytes, watch=watch)
    with inside as came:
        source = archive.Fetched(registry, origin(url), offered, held)
        again = {"source": origin(url)}
        taken = archive.receive(registry, source, rename=wanted.name, replace=wanted.replace, sources=again)
    return Taken(taken.artifacts, taken.names, came.new)


def _bring(client: Client, url: str) -> _files.Bring:
    """Files below the address of a folder; of a file, itself."""

    def bring(path: str, target: Path, size: int, came: Callable[[int], None]) -> None:
        client.append(url + quote(path) if url.endswith("/") else url, target, size, came)

    return bring


def _blob(blob: Blob) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _size(client: Client, url: str) -> int:
    """What the server says of a file's length."""
    said = client.request("HEAD", url).headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,15}", said) is None:
        raise Unsupported(f"{origin(url)}: the server does not say its size", "serve it as a file")
    return int(said)
