"""The Hugging Face Hub: hf:org/name[@revision], or org/name alone. One model of a repository, at one commit.

What a repository holds is asked of huggingface_hub (formats/_hub.py); bytes come through the registry's own client, which
goes on with a file after a kill. Each is proven by what the tree at that commit says: the sha256 of what lies in LFS or
Xet, git's SHA-1 of the rest. Small files come first: what nobody here can read is refused before its weights are fetched.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core.errors import CorruptInput, SourceNotFound, UsageError
from slmops.core.watch import Watch
from slmops.registry import blobs, contents, fetching, manifest, plain, references
from slmops.registry._http import Client
from slmops.registry.archive import Taken
from slmops.registry.blobs import Blob
from slmops.registry.fetching import Fill, Piece
from slmops.registry.manifest import Layer
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted

if TYPE_CHECKING:
    from slmops.formats._hub import File, Name

PREFIXES = ("hf:",)
OPTIONS = ("revision", "patterns", "variant")


def origin(where: str) -> str:
    return f"hf:{_name(where, None).repo}"


def pull(registry: Registry, where: str, wanted: Wanted, watch: Watch) -> Taken:
    """Raises SourceNotFound, CorruptInput, Unsupported, UnknownFamily, UsageError (several models), OutputExists."""
    name = _name(where, wanted.revision)
    commit, files = _listing(registry, name)
    choice = contents.choose({path: file.size for path, file in files.items()}, str(name), wanted.variant, wanted.patterns)
    names = {path: choice.inside(path) for path in (*choice.others, *choice.weights)}
    manifest.check_paths(list(names.values()))
    known = _known(registry)
    pieces = {path: _piece(registry, files[path], known) for path in names}
    paths = {piece: path for path, piece in pieces.items()}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(registry.scratch())
        client = stack.enter_context(_client(name, commit))
        found: dict[str, Blob] = {}
        fresh: list[int] = []

        def bring(some: Sequence[str]) -> None:
            """Fetch files, and lay them into the folder as readers expect them."""
            fill = _fill(client, name, commit, paths)
            asked = [pieces[path] for path in some]
            held = fetching.fetched(registry, asked, fill, jobs=wanted.jobs, most=wanted.most_bytes, watch=watch)
            came = stack.enter_context(held)
            fresh.append(came.new)
            for path in some:
                found[path] = came.blobs[pieces[path]]
                target = folder / names[path]
                target.parent.mkdir(parents=True, exist_ok=True)
                blobs.share(registry.blobs.path(found[path].digest), target)

        bring(choice.others)
        choice = plain.narrowed(choice, folder)
        bring(choice.weights)
        taken = sorted((*choice.others, *choice.weights))
        said = plain.facts(folder, choice, name.repo.partition("/")[2], {"hub": str(name), "revision": commit})
        layers = [Layer(names[path], found[path], manifest.kind_of(names[path])) for path in taken]
        given = wanted.name or plain.name_of(said, choice.label if choice.form == "gguf" else None)
        listed = {
            names[path]: {"path": path, "key": _key(files[path]), "digest": found[path].digest, "size": found[path].size}
            for path in taken
        }
        document = {"source": f"hf:{name.repo}@{commit}", "files": listed}
        with registry.writing():
            digest = registry.file(said, layers, given, origin=document, replace=wanted.replace)
    left = tuple(f"left out, for it can run code: {path}" for path in choice.left)
    return Taken((digest,), (given,), sum(fresh), left)


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch) -> None:
    """Fetch lost blobs again, at the commit that they were pulled at. Raises what fetching raises."""
    name = _name(str(document["source"]), None)
    listed = document.get("files")
    places: dict[Piece, str] = {}
    for entry in listed.values() if isinstance(listed, dict) else ():
        if isinstance(entry, dict) and (blob := Blob(str(entry.get("digest")), entry.get("size", 0))) in lost:
            places[Piece.of(blob)] = str(entry.get("path"))
    commit = name.revision or ""
    with _client(name, commit) as client:
        fill = _fill(client, name, commit, places)
        with fetching.fetched(registry, list(places), fill, most=registry.policy.most_bytes, watch=watch):
            pass


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


def _fill(client: Client, name: Name, commit: str, paths: Mapping[Piece, str]) -> Fill:
    """How a file comes: from Hugging Face's own cache, if it is there whole, else from the Hub."""
    from slmops.formats import _hub

    def fill(piece: Piece, path: Path, came: Callable[[int], None]) -> None:
        held = _hub.cached(name, commit, paths[piece])
        if held is not None and held.stat().st_size == piece.size:
            came(-path.stat().st_size)
            with held.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, blobs.CHUNK)
            came(piece.size)
            return
        client.append(_hub.location(name, commit, paths[piece])[0], path, piece.size, came)

    return fill


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
    except SourceNotFound as fault:
        held = {
            attached.subject
            for attached, document in registry.attached("origin")
            if str(document.get("source", "")).startswith(f"hf:{name.repo}@")
        }
        tags = [tag for row in registry.rows() if row.digest in held for tag in row.tags]
        if not tags:
            raise
        raise SourceNotFound(str(fault), f"{fault.cure}; the registry has {', '.join(tags[:5])} of it") from None


def _known(registry: Registry) -> dict[str, Blob]:
    """git's SHA-1 -> the blob that a pull found under it: small files, which so are not fetched twice."""
    found: dict[str, Blob] = {}
    for _, document in registry.attached("origin"):
        listed = document.get("files")
        for entry in listed.values() if isinstance(listed, dict) else ():
            with contextlib.suppress(KeyError, TypeError, CorruptInput):
                if str(entry["key"]).startswith("git-"):
                    found[str(entry["key"])] = Blob(references.digest(entry["digest"]), int(entry["size"]))
    return found


def _piece(registry: Registry, file: File, known: Mapping[str, Blob]) -> Piece:
    key = _key(file)
    held = known.get(key)
    # Attachments come from anywhere: what they say of a blob is looked at before it counts.
    if held is not None and held.size == file.size and registry.blobs.has(held.digest):
        with contextlib.suppress(OSError):
            if f"git-{fetching.git_hash(registry.blobs.path(held.digest))}" == key:
                return Piece.of(held)
    return Piece(key, file.size)


def _key(file: File) -> str:
    return f"sha256-{file.sha256}" if file.sha256 else f"git-{file.git}"
