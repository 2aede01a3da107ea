"""The registry as verbs use it: add, resolve, place, tag, remove, lease, attach.

    root/oci-layout, index.json, blobs/sha256/<hex>     the truth: an OCI image layout
    root/artifacts/<hex>/...                            folders that engines open: hard links to blobs, made when asked for
    root/catalog.sqlite                                 what is asked often; rebuilt from the truth
    root/scratch/, root/*.lock                          work in progress, and the locks

What is acknowledged is in index.json, which is replaced whole, last, after every byte that it leads to is on the disk.
Writers of blobs share one lock, which gc takes alone; index.json is edited under a second one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from slmops.core import receipt
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound
from slmops.core.store import file_digest, no_space
from slmops.registry import _lock, catalog, founding, index, leases, manifest, placing, references, trust
from slmops.registry import policy as policies
from slmops.registry.blobs import Blob, Blobs, Identity
from slmops.registry.catalog import Catalog, Row
from slmops.registry.index import Index
from slmops.registry.manifest import Layer, Manifest
from slmops.registry.policy import Policy
from slmops.registry.references import Reference

DAY = 24 * 3600.0


class Registry:
    """One registry on disk. A context manager; one object a thread, any number of processes."""

    def __init__(self, root: Path, catalog: Catalog, policy: Policy | None) -> None:
        self.root, self.catalog, self._policy = root, catalog, policy
        self.blobs = Blobs(root, catalog.trusts)

    @property
    def policy(self) -> Policy:
        """Read when it is first asked for: to list what there is needs none. Raises CorruptInput, SourceNotFound."""
        if self._policy is None:
            self._policy = policies.load(self.root)
        return self._policy

    @staticmethod
    def open(root: Path | None = None, *, policy: Policy | None = None) -> Registry:
        """The registry at `root` (by default founding.home()), made where there is none. Raises NoSpace, CorruptInput.

        policy: in place of the one that policy.load finds.
        """
        root = (root or founding.home()).absolute()
        with no_space(root):
            for folder in (root / "blobs" / "sha256", root / "scratch", root / "artifacts"):
                folder.mkdir(parents=True, exist_ok=True)
            if not founding.exists(root) or not (root / index.NAME).exists():
                founding.layout(root)
            fresh = not Catalog.usable(root / catalog.NAME)
            if fresh:
                with _lock.held(root / "index.lock"):
                    founding.empty_catalog(root)
        registry = Registry(root, Catalog(root / catalog.NAME), policy)
        try:
            registry.refresh()
        except BaseException:
            registry.close()
            raise
        return registry

    def close(self) -> None:
        self.catalog.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def resolve(self, text: str) -> str:
        """The digest that a reference stands for: name[:tag], sha256:<hex>, or the start of one (8 digits).

        A name without a tag is its `latest`, or its only one. Raises SourceNotFound.
        """
        if references.SHORT.fullmatch(text):
            found = self.catalog.abbreviated(text)
            if len(found) == 1:
                return found[0]
            fault = f"{text} is the start of {len(found)} digests" if found else f"the registry has no artifact {text}"
            raise SourceNotFound(fault, "slmops models ls shows what it has")
        return self._named(text)[1]

    def _named(self, text: str) -> tuple[Reference, str]:
        """The whole name that is meant, and its digest. Raises SourceNotFound."""
        reference = references.named(text)
        tags = self.catalog.tags(reference.name)
        if reference.tag not in tags and len(tags) == 1 and ":" not in text:
            reference = Reference(reference.name, tags[0])
        if (digest := self.catalog.tagged(reference.name, reference.tag)) is not None:
            return reference, digest
        cure = f"its tags: {', '.join(tags[:20])}" if tags else "slmops models ls shows what it has"
        raise SourceNotFound(f"the registry has no artifact {reference}", cure)

    def manifest(self, digest: str) -> Manifest:
        """Read and checked. Raises SourceNotFound, CorruptInput."""
        return manifest.parse(self.blobs.read(digest, manifest.MOST_BYTES))

    def document(self, blob: Blob) -> dict[str, Any]:
        """A JSON object that a manifest leads to: a model's config, an attachment. Raises CorruptInput."""
        try:
            value = json.loads(self.blobs.read(blob.digest, receipt.MOST_BYTES))
        except (ValueError, RecursionError) as error:
            raise CorruptInput(f"the blob {blob.digest} is not JSON: {error}") from None
        return value if isinstance(value, dict) else {}

    def attached(self, kind: str) -> Iterator[tuple[Manifest, dict[str, Any]]]:
        """Every attachment of a kind with its document; those that cannot be read are fsck's to tell."""
        for digest in self.catalog.attached(kind):
            with contextlib.suppress(SlmopsError):
                yield self.manifest(digest), self.content(digest)

    def content(self, attachment: str) -> dict[str, Any]:
        """The document of an attachment; empty where it is none: what strangers attach must not hide the artifact."""
        try:
            return self.document(self.manifest(attachment).layers[0].blob)
        except SlmopsError:
            return {}  # fsck says what is damaged

    def rows(self, name: str | None = None) -> list[Row]:
        return self.catalog.rows(name)

    def entries(self) -> list[str]:
        """Digests of all manifests, as index.json has them."""
        return list(index.read(self.root).entries)

    def made(self, step: str, form: str) -> str | None:
        """The proven artifact that a step (Step.key) made in a format, if it is here: a step runs once."""
        digest = self.catalog.made(step, form)
        return digest if digest is not None and self.blobs.has(digest) else None

    def add(self, path: Path, *names: Reference, take: bool = False, replace: bool = False) -> str:
        """File a finished artifact (a folder with a receipt), or any model that can be read, and tag it; its digest.

        One read and one hash of each file; those that are here already are kept once. Twice the same is once.
        take: the folder is ours: files are moved, not copied, and what is left of it is for the caller to remove.
        Raises OutputExists where a name is another artifact's, unless `replace`; CorruptInput; NoSpace; and for a model
        without a receipt what plain.described raises.
        """
        from slmops.registry import plain

        found = plain.described(path)
        return self.take_in(found.facts, found.files, *names, take=take, replace=replace)

    def take_in(
        self,
        facts: Mapping[str, Any],
        files: Mapping[str, Path],
        *names: Reference,
        origin: str = policies.HERE,
        take: bool = False,
        replace: bool = False,
    ) -> str:
        """The same of what plain.described found. origin: where it came from, for the policy."""
        with self.writing():
            layers = [
                Layer(name, self.blobs.add(file, take=take), manifest.kind_of(name)) for name, file in sorted(files.items())
            ]
            return self.file(facts, layers, *names, origin=origin, replace=replace)

    def file(
        self,
        facts: Mapping[str, Any],
        layers: Sequence[Layer],
        *names: Reference,
        origin: str = policies.HERE,
        sources: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> str:
        """Acknowledge an artifact whose files are blobs here. facts: its receipt, or plain.facts. Within `writing()`.

        origin: where it came from, for the policy. sources: where its files can be had again (registry/remotes), attached
        to it. Raises OutputExists, PolicyRefused.
        """
        config = self.blobs.put(manifest.config(facts, layers))
        content = manifest.model(facts, config, layers, manifest.made_from(facts, self.root / "artifacts"))
        whole = self.blobs.put(content)
        parsed = manifest.parse(content)
        self.trust(one.digest for one in (*parsed.blobs, whole))
        attached = [self.attachment(whole, "origin", sources)] if sources is not None else []
        self.commit([parsed, *attached], dict.fromkeys(names, whole.digest), replace=replace, origin=origin)
        return whole.digest

    def attach(self, subject: str, kind: str, document: Mapping[str, Any] | str, *, only: bool = False) -> str:
        """File a document about an artifact (kind `measurement`: {"measured": figures, "verdicts": [...]}).

        It is a manifest of its own that refers to the artifact, goes where it goes, and goes when it goes.
        document: for JSON, or a text as it is. only: in place of what was attached of this kind before.
        Raises SourceNotFound where there is no such artifact.
        """
        with self.writing():
            about = self.manifest(subject)
            made = self.attachment(Blob(about.digest, about.size), kind, document)
            earlier = [one for one, held in self.catalog.attachments(subject) if held == kind and one != made.digest]
            self.commit([made], {}, replace=False, instead=earlier if only else ())
        return made.digest

    def attachment(self, subject: Blob, kind: str, document: Mapping[str, Any] | str) -> Manifest:
        """What attach() commits, written and not yet acknowledged. Within `writing()`."""
        text = document.encode() if isinstance(document, str) else manifest.canonical(dict(document))
        empty, content = self.blobs.put(b"{}"), self.blobs.put(text)
        made = manifest.attachment(kind, subject, empty, content)
        whole = self.blobs.put(made)
        self.trust(one.digest for one in (empty, content, whole))
        return manifest.parse(made)

    def commit(
        self,
        found: Sequence[Manifest],
        names: Mapping[Reference, str],
        *,
        replace: bool,
        origin: str = policies.HERE,
        instead: Iterable[str] = (),
    ) -> None:
        """Acknowledge manifests whose blobs are all here, and their names, at once. Within `writing()`.

        origin: where they came from. instead: manifests that go. Raises OutputExists, PolicyRefused: then nothing is done.
        """

        def edit(held: Index) -> None:
            for gone in instead:
                held.drop(gone)
            for one in found:
                held.add(one.digest, one.size, one.artifact_type, origin)
            for name, digest in names.items():
                held.give(name, digest, replace)

        self.change(edit)

    def refuse_taken(self, name: Reference, step: str = "") -> None:
        """Raises OutputExists where the name is another step's artifact: asked before the work, not after."""
        digest = self.catalog.tagged(name.name, name.tag)
        if digest is not None and (not step or self.manifest(digest).ours("step") != step):
            raise index.taken(name, digest)

    def tag(self, text: str, name: Reference, *, replace: bool = False) -> str:
        """Give an artifact a further name. Raises SourceNotFound, OutputExists."""

        def edit(held: Index) -> None:
            if digest not in held.entries:
                raise SourceNotFound(f"the registry has no artifact {digest}", "it was removed meanwhile")
            held.give(name, digest, replace)

        digest = self.resolve(text)
        self.change(edit)
        return digest

    def remove(self, text: str) -> tuple[str, list[Reference]]:
        """Take a name away; of a digest, all its names. The bytes go with gc, when their grace is over.

        Returns the digest and the names that went. Raises SourceNotFound.
        """
        gone: list[Reference] = []

        def edit(held: Index) -> None:
            if named is not None and held.tags.get(named) != digest:
                raise SourceNotFound(f"the registry has no artifact {named}", "it was removed, or moved, meanwhile")
            gone.extend([named] if named is not None else held.tags_of(digest))
            for name in gone:
                held.tags.pop(name, None)
            if not held.tags_of(digest):
                with contextlib.suppress(OSError):
                    self.blobs.touch(digest)  # its grace begins now

        named, digest = (None, self.resolve(text)) if references.SHORT.fullmatch(text) else self._named(text)
        self.change(edit)
        return digest, gone

    @contextlib.contextmanager
    def lease(self, text: str, why: str = "", seconds: float = DAY) -> Iterator[Path]:
        """The folder of an artifact, which stays until the block ends or the process dies.

        seconds: after which another machine's lease on a shared disk is over. Raises SourceNotFound, CorruptInput.
        """
        with self.writing():  # no gc between finding it and saying so
            digest = self.resolve(text)
            number = self.catalog.lease(leases.mine(digest, why, seconds))
            try:
                folder = placing.placed(self, digest)
            except BaseException:
                self.catalog.release(number)
                raise
        try:
            yield folder
        finally:
            self.catalog.release(number)

    def keep(self, text: str, why: str, seconds: float) -> str:
        """A lease that no process holds: it is over after so many seconds."""
        with self.writing():
            digest = self.resolve(text)
            lease = leases.mine(digest, why, seconds)
            self.catalog.lease(leases.Lease(digest, lease.host, 0, lease.started, lease.until, why))
        return digest

    def place(self, digest: str) -> Path:
        """A folder of the artifact's files, read-only, sharing the blobs' bytes where the file system can.

        Files are hashed the first time, and again when one is another file than was hashed, or always by policy.
        Raises SourceNotFound, CorruptInput.
        """
        with self.writing():
            return placing.placed(self, digest)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the registry's disk; what a killed process leaves of it goes with the next gc."""
        with no_space(self.root):
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}.", dir=self.root / "scratch"))
        try:
            with no_space(self.root):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Held while blobs are written that no manifest leads to yet: gc waits for it."""
        return _lock.held(self.root / "writers.lock", shared=True)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Held while blobs are removed."""
        return _lock.held(self.root / "writers.lock")

    def change(self, edit: Callable[[Index], None]) -> None:
        """Edit index.json: read, edited, replaced whole, under its lock; the catalog follows.

        Raises PolicyRefused where a name may not move so.
        """
        with _lock.held(self.root / "index.lock"), no_space(self.root):
            held = index.read(self.root)
            before = dict(held.tags)
            edit(held)
            trust.naming(self, before, held)
            held.write(self.root)
            self._sync(held)

    def refresh(self) -> None:
        """Bring the catalog up to index.json, if that is another than it was made from."""
        if self.catalog.seen() != index.identity(self.root):
            with _lock.held(self.root / "index.lock"):
                self._fill()

    def reindex(self) -> None:
        """Make the catalog anew from index.json and the manifests; a file that SQLite cannot read is set aside.

        Leases and what was hashed outlast it where they can be read.
        """
        with _lock.held(self.root / "index.lock"):
            try:
                broken = bool(self.catalog.sound())
                if not broken:
                    self.catalog.create(self._fill)
            except CorruptInput:
                broken = True
            if broken:
                self.catalog.close()
                founding.aside(self.root)
                self.catalog = Catalog(self.root / catalog.NAME)
                self.blobs = Blobs(self.root, self.catalog.trusts)
                self.catalog.create(self._fill)

    def _fill(self) -> None:
        self._sync(index.read(self.root))

    def _sync(self, held: Index) -> None:
        self.catalog.sync(held, (index.identity(self.root), file_digest(self.root / index.NAME)), self._load)

    def trust(self, digests: Iterable[str]) -> None:
        """Remember that these blobs were hashed as they were written."""
        self.catalog.trust([(one, Identity.of(self.blobs.path(one))) for one in digests])

    def _load(self, digest: str) -> tuple[Manifest, dict[str, Any], float]:
        found = self.manifest(digest)
        document: dict[str, Any] = {}
        with contextlib.suppress(SlmopsError):
            document = self.document(found.layers[0].blob if found.subject is not None else found.config)
        return found, document, self.blobs.path(digest).stat().st_mtime
