"""--name: what a verb made goes into the registry under a name."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core.errors import OutputExists, SourceNotFound, UsageError

if TYPE_CHECKING:
    from slmops.compile import Converted
    from slmops.core.step import Step
    from slmops.registry import Registry
    from slmops.registry.references import Reference


def names(text: str, formats: Sequence[str]) -> dict[str, Reference]:
    """Format -> its name: NAME[:TAG] for one; of several, NAME:FORMAT or NAME:TAG-FORMAT. Raises UsageError."""
    from slmops.registry import references
    from slmops.registry.references import Reference

    given = references.named(text)
    if len(formats) == 1:
        return {formats[0]: given}
    start = f"{given.tag}-" if ":" in text else ""
    return {form: Reference(given.name, f"{start}{form.replace('_', '-')}") for form in formats}


class Filing:
    """The registry, for the artifacts of one conversion."""

    def __init__(self, registry: Registry, wanted: Mapping[str, Reference], replace: bool) -> None:
        self._registry, self.names, self._replace = registry, wanted, replace

    def check(self, step: Step, licence: str | None) -> None:
        """Before the work. Raises OutputExists for a name that is another step's, PolicyRefused for one it may not have.

        licence: of what is converted.
        """
        from slmops.registry import trust

        for form, name in self.names.items():
            if not self._replace:
                self._registry.refuse_taken(name, step.key)
            trust.promised(self._registry, name, self._registry.made(step.key, form), licence)

    def recall(self, step: Step) -> dict[str, Converted]:
        """What the step made before, in the formats that are here, under the names that are asked for now."""
        from slmops.compile import Converted
        from slmops.core import receipt

        found: dict[str, Converted] = {}
        for form, name in self.names.items():
            digest = self._registry.made(step.key, form) if not self._replace else None
            if digest is not None:
                # A name that it takes over is one of the same step: checked.
                self._registry.tag(digest, name, replace=True)
                folder = self._registry.place(digest)
                found[form] = Converted(form, folder, receipt.load(folder), fresh=False)
        return found

    def file(self, one: Converted, *, take: bool) -> Converted:
        """Add what was made, and name it. take: it lies in the scratch folder, and is moved; the user's own is copied."""
        if one.failure is not None:
            return one
        from slmops.registry import documents

        name, replace = self.names[one.format], self._replace
        with contextlib.suppress(OutputExists):
            self._registry.refuse_taken(name, one.receipt["step"]["key"])
            replace = True  # what the same step made anew takes the name over
        digest = self._registry.add(one.folder, name, take=take, replace=replace)
        documents.write(self._registry, digest)
        return dataclasses.replace(one, folder=self._registry.place(digest)) if take else one

    @property
    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        return self._registry.scratch()


@contextlib.contextmanager
def opened(text: str | None, formats: Sequence[str], replace: bool) -> Iterator[Filing | None]:
    """None without a name."""
    if text is None:
        yield None
        return
    from slmops.registry import Registry

    wanted = names(text, formats)
    with Registry.open() as registry:
        yield Filing(registry, wanted, replace)


def choice(name: Reference, folder: Path, document: Mapping[str, Any]) -> str:
    """File what optimize chose, with what was measured of it; the digest."""
    from slmops.registry import Registry

    with Registry.open() as registry:
        digest = registry.add(folder, name, replace=True)
        _attach(registry, digest, document)
    return digest


def digests(texts: Sequence[str]) -> list[str]:
    """Of names in the registry. Raises UsageError for what is none, SourceNotFound."""
    from slmops.registry import Registry, exists, home

    if paths := [text for text in texts if Path(text).exists()]:
        raise UsageError(f"{paths[0]} is a path, and figures are filed in the registry", "slmops models add gives it a name")
    if not exists(home()):
        raise SourceNotFound(f"there is no registry at {home()}", "slmops models add makes one")
    with Registry.open() as registry:
        return [registry.resolve(text) for text in texts]


def measured(found: Mapping[str, Mapping[str, Any]]) -> None:
    """File measurements (digest -> document) with their artifacts."""
    from slmops.registry import Registry

    with Registry.open() as registry:
        for digest, document in found.items():
            _attach(registry, digest, document)


def _attach(registry: Registry, digest: str, document: Mapping[str, Any]) -> None:
    from slmops.registry import documents

    # Where it lay on this machine is nobody else's business, and a measurement goes where the artifact goes.
    figures = {key: value for key, value in document["measured"].items() if key != "folder"}
    registry.attach(digest, "measurement", {**document, "measured": figures})
    documents.write(registry, digest)


def refuse_name(name: Reference, fingerprint: str, licence: str | None) -> None:
    """A name moves from one choice to the next of the same model. Raises OutputExists where it is another model's.

    Raises PolicyRefused for a name that the choice may not have.
    """
    from slmops.registry import Registry, manifest, trust

    with Registry.open() as registry:
        trust.promised(registry, name, None, licence)
        digest = registry.catalog.tagged(name.name, name.tag)
        inputs = manifest.inputs(registry.manifest(digest)) if digest else []
        if digest and not any(one.role == "source" and one.parent == f"fingerprint:{fingerprint}" for one in inputs):
            raise OutputExists(f"{name} is an artifact of another model already", "choose another name")
