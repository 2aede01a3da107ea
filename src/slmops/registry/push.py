"""Push: an artifact of this registry, with what is attached to it, into a repository of another, over HTTP.

Order: blobs that are not there yet, attachments, the manifest under its tag last. So a push that breaks off shows nothing,
and the next one goes on where it ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from slmops.core.errors import OutputExists, SlmopsError, Unreachable, UsageError
from slmops.core.watch import Watch
from slmops.registry import _upload, documents, fetching, manifest, placing, remembered
from slmops.registry._distribution import Repository
from slmops.registry.blobs import Blob
from slmops.registry.manifest import Manifest
from slmops.registry.registry import Registry
from slmops.registry.remotes.oci import OWN


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    digest: str
    place: str
    """With tag."""
    sent: int
    """Bytes of blobs that were not there before."""
    attachments: int


def push(
    registry: Registry,
    digest: str,
    there: Repository,
    tag: str,
    *,
    over: Collection[str] | None = (),
    jobs: int = 4,
    watch: Watch | None = None,
) -> Pushed:
    """Send an artifact, and give it a tag there.

    over: digests that the tag may be moved away from; None: any. Raises OutputExists, CorruptInput for a damaged blob,
    Unreachable, SourceNotFound where it is refused.
    """
    watch = watch or Watch()
    place = f"{there.place}:{tag}"
    with contextlib.ExitStack() as stack:
        with registry.writing():
            found = registry.manifest(digest)
            fetching.reserve(registry, digest, stack)
        if found.subject is not None:
            raise UsageError(f"{digest[:19]} is an attachment", "push what it is attached to: it goes along")
        _refuse_other(there, tag, digest, over)
        documents.write(registry, digest)
        listed = registry.catalog.attachments(digest)
        attached = [registry.manifest(one) for one, kind in listed if kind not in OWN]
        wanted = list({blob.digest: blob for one in (found, *attached) for blob in one.blobs}.values())
        for blob in wanted:
            placing.check(registry, blob)
        sent = _blobs(registry, there, sorted(wanted, key=lambda blob: -blob.size), jobs, watch)
        for one in attached:
            _attach(registry, there, one, found)
        _refuse_other(there, tag, digest, over)
        there.put(registry.blobs.read(digest, manifest.MOST_BYTES), manifest.MANIFEST, tag)
        if (now := there.find(tag)) != digest:
            raise Unreachable(
                f"{place} is {str(now)[:19]} after it was pushed as {digest[:19]}", "somebody else moves it: look"
            )
    remembered.change(registry.root, lambda held: held.saw(there, digest))
    return Pushed(digest, place, sent, len(attached))


def _refuse_other(there: Repository, tag: str, digest: str, over: Collection[str] | None) -> None:
    if over is not None and (now := there.find(tag)) not in (None, digest, *over):
        raise OutputExists(f"{there.place}:{tag} is {str(now)[:19]} already", "choose another tag, or --force to move it")


def _blobs(registry: Registry, there: Repository, wanted: list[Blob], jobs: int, watch: Watch) -> int:
    """Upload what is not there, several at a time; bytes that were sent."""
    near = _near(registry, there)
    off, telling = threading.Event(), threading.Lock()

    def came(count: int) -> None:
        if off.is_set():
            raise fetching.CalledOff
        with telling:
            watch.advance(count)

    def one(blob: Blob) -> int:
        key = hashlib.sha256(f"{there.place} {blob.digest}".encode()).hexdigest()
        session = registry.root / fetching.FOLDER / f"upload-{key}"
        path = registry.blobs.path(blob.digest)
        return blob.size if _upload.upload(there, blob, path, came, near=near.get(blob.digest, ()), session=session) else 0

    watch.begin(sum(blob.size for blob in wanted))
    try:
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            waiting = [pool.submit(one, blob) for blob in wanted]
            try:
                return sum(done.result() for done in as_completed(waiting))
            except BaseException:
                off.set()
                for future in waiting:
                    future.cancel()
                raise
    finally:
        watch.end()


def _near(registry: Registry, there: Repository) -> dict[str, list[str]]:
    """Blob -> repositories of this host that have it, as far as is remembered: two at most."""
    found: dict[str, list[str]] = {}
    for repository, digests in remembered.read(registry.root).beside(there).items():
        for digest in registry.catalog.known() & set(digests):
            with contextlib.suppress(SlmopsError):  # a hint: what is damaged here is not this push's matter
                for name in (digest, *(name for name, _ in registry.catalog.attachments(digest))):
                    for blob in registry.manifest(name).blobs:
                        known = found.setdefault(blob.digest, [])
                        known += [repository] if repository not in known and len(known) < 2 else []
    return found


def _attach(registry: Registry, there: Repository, one: Manifest, about: Manifest) -> None:
    """Put an attachment; where the registry does not list it with its subject by itself, the tag that stands in for that."""
    if not there.put(registry.blobs.read(one.digest, manifest.MOST_BYTES), manifest.MANIFEST, one.digest):
        descriptor: dict[str, Any] = {"mediaType": manifest.MANIFEST, "digest": one.digest, "size": one.size}
        there.list_referrer(about.digest, {**descriptor, "artifactType": one.artifact_type})
