"""The Hugging Face Hub: hf:org/name[@revision], or org/name alone. One model of a repository, at one commit.

What a repository holds is asked of huggingface_hub (formats/_hub.py); bytes come through the registry's own client, which
goes on with a file after a kill. Each is proven by what the tree at that commit says: the sha256 of what lies in LFS or
Xet, git's SHA-1 of the rest. Small files come first: what nobody here can read is refused before its weights are fetched.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core.errors import SourceNotFound, Unreachable, UsageError
from slmops.core.watch import Watch
from slmops.registry import blobs, contents, fetching
from slmops.registry._http import Client
from slmops.registry.archive import Taken
from slmops.registry.blobs import Blob
from slmops.registry.fetching import Piece
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted, _files
from slmops.registry.remotes._files import Listing

if TYPE_CHECKING:
    from slmops.formats._hub import File, Name

PREFIXES = ("hf:",)
OPTIONS = ("revision", "patterns", "variant")


def origin(where: str) -> str:
    return f"hf:{_name(where, None).repo}"


def pull(registry: Registry, where: str, wanted: Wanted, watch: Watch) -> Taken:
    """Raises SourceNotFound, Unreachable, and what _files.pull raises."""
    name = _name(where, wanted.revision)
    commit, files = _listing(registry, name)
    listing = Listing(
        what=str(name),
        origin=f"hf:{name.repo}",
        source=f"hf:{name.repo}@{commit}",
        files=_pieces(registry, files),
        name=re.sub(r"(?i)(.)[-_.]gguf$", r"\1", name.repo.partition("/")[2]),
        facts={"hub": str(name), "revision": commit},
    )
    with _client(name, commit) as client:
        return _files.pull(registry, listing, _bring(client, name, commit, listing.files), wanted, watch)


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch) -> None:
    """Fetch lost blobs again, at the commit that they were pulled at. Raises what fetching raises."""
    name = _name(str(document["source"]), None)
    commit = name.revision or ""
    with _client(name, commit) as client:
        _files.restore(registry, document, lost, _bring(client, name, commit, {}), watch)


class _Token:
    """What the Hub is asked with; see _http.Authorization."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def header(self) -> str | None:
        return f"Bearer {self._token}" if self._token else None

    def challenged(self, challenges: list[str], sent: str | None) -> bool:
        return False


def _client(name: Name, commit: str) -> Client:
    from slmops.formats import _hub

    url, token = _hub.location(name, commit, "config.json")
    return Client(url, _Token(token))


def _bring(client: Client, name: Name, commit: str, pieces: Mapping[str, Piece]) -> _files.Bring:
    """How a file comes: from Hugging Face's own cache, if it is there whole and what it must be, else from the Hub."""
    from slmops.formats import _hub

    def bring(path: str, target: Path, size: int, came: Callable[[int], None]) -> None:
        held = _hub.cached(name, commit, path) if path in pieces else None
        if held is None or held.stat().st_size != size or fetching.proven(pieces[path], held) is None:
            client.append(_hub.location(name, commit, path)[0], target, size, came)
            return
        came(-target.stat().st_size)
        with held.open("rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, blobs.CHUNK)
        came(size)

    return bring


def _name(where: str, revision: str | None) -> Name:
    from slmops.formats import _hub

    found = _hub.parse(where.removeprefix("hf:"))
    if found is None:
        raise UsageError(f"{where[:200]!r} is no name on the Hub", "give hf:org/name, or hf:org/name@revision")
    if revision is not None and found.revision is not None:
        raise UsageError(f"{where} has a revision already", "leave --revision out")
    named = _hub.parse(found.repo, revision or found.revision)
    assert named is not None
    return named


def _listing(registry: Registry, name: Name) -> tuple[str, dict[str, File]]:
    """What the Hub has; where it cannot be asked, what is here of it already is said."""
    from slmops.formats import _hub

    try:
        return _hub.listing(name)
    except (SourceNotFound, Unreachable) as fault:
        held = {
            attached.subject
            for attached, document in registry.attached("origin")
            if str(document.get("source", "")).startswith(f"hf:{name.repo}@")
        }
        tags = [tag for row in registry.rows() if row.digest in held for tag in row.tags]
        if not tags:
            raise
        raise type(fault)(str(fault), f"{fault.cure}; the registry has {', '.join(tags[:5])} of it") from None


def _pieces(registry: Registry, files: Mapping[str, File]) -> dict[str, Piece]:
    """By path. What the Hub knows by git's SHA-1 alone, and is here, is known by its sha256: so it is not fetched twice."""
    small = {file.size for file in files.values() if file.sha256 is None}
    here: dict[str, Blob] = {}
    for digest in registry.blobs.all():
        with contextlib.suppress(OSError):
            path = registry.blobs.path(digest)
            if (size := path.stat().st_size) in small and size <= contents.MOST_SMALL:
                here[fetching.git_hash(path)] = Blob(digest, size)
    return {
        path: Piece(f"sha256-{file.sha256}", file.size)
        if file.sha256
        else Piece.of(here[file.git])
        if file.git in here
        else Piece(f"git-{file.git}", file.size)
        for path, file in files.items()
    }
