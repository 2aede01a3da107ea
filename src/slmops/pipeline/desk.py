"""What a step works with: the registry, and what the values of its keys lead to.

Paths are read from the folder of the pipeline's file. Where a model or an artifact is asked for, a path wins over a name in
the registry, and that over the Hugging Face Hub, as for verbs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from slmops import compile as compiler
from slmops import probes
from slmops import source as sources
from slmops.core import receipt, store
from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.model import Model
from slmops.passes import calibrate
from slmops.pipeline.records import Records
from slmops.registry import Registry, references

INPUTS = {
    "artifact": ("artifact",),
    "model": ("model", "artifact", "path"),
    "file": ("path",),
    "folder": ("path",),
    "measurement": ("measurement",),
}
"""What a key's value may lead to -> the types of outputs (steps.TYPES) that it takes."""
FROM = "paths are read from the folder of the pipeline's file"


class Desk:
    """A context manager; what was opened at it is leased until it closes. One process and thread each."""

    def __init__(self, root: Path, base: Path, watch: compiler.Watch, executor: str = "local") -> None:
        self.base, self.watch, self.executor = base, watch, executor
        self.key = ""
        """Of the step that is at work."""
        self.registry = Registry.open(root)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.registry.close)
        self._held: set[str] = set()
        self.model: Callable[[str], Model] = functools.cache(self._model)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def root(self) -> Path:
        return self.registry.root

    def work(self) -> Path:
        """A folder of the step's own, which stays until the step is done: the next try goes on from there."""
        return Records(self.root).work(self.key)

    def path(self, text: str) -> Path:
        """A file or folder, from the pipeline's folder."""
        return self.base / (Path(text).expanduser() if text.startswith("~/") else Path(text))

    def found(self, text: str) -> Path | None:
        """The same where something stands there."""
        path = self.path(text)
        with contextlib.suppress(OSError, ValueError):  # a name too long for the system, or with a NUL, is no path
            return path if path.exists() else None
        return None

    def file(self, text: str) -> Path:
        """The same, of a file. Raises SourceNotFound."""
        if (path := self.found(text)) is None or not path.is_file():
            raise SourceNotFound(f"there is no file {self.path(text)}", FROM)
        return path

    def text(self, text: str) -> str:
        """What a file says."""
        return self.file(text).read_text(encoding="utf-8", errors="replace")

    def calibration(self, text: str, model: Model) -> str:
        """The same, of a text to calibrate on: plain, or JSON lines of conversations."""
        return calibrate.read(self.file(text), functools.partial(probes.conversation, model))

    def source(self, text: str) -> str:
        """What `source.load` takes: the path, the folder of what the registry calls so, or the Hub's name."""
        if (path := self.found(text)) is not None:
            return str(path)
        digest = self.digest(text)
        return text if digest is None else str(self.hold(digest))

    def _model(self, text: str) -> Model:
        return sources.load(self.source(text))

    def outline(self, text: str) -> Model:
        """As far as predictions need it: nothing but headers is fetched."""
        return sources.outline(self.source(text))

    def fetched(self, text: str) -> bool:
        """Whether a model can be opened without fetching weights."""
        return sources.fetched(self.source(text))

    def artifact(self, text: str) -> Path:
        """The folder of an artifact. Raises SourceNotFound."""
        if (path := self.found(text)) is not None:
            return path
        return self.hold(self._known(text))

    def digest(self, text: str) -> str | None:
        """The digest of what the registry calls so; None where it has nothing of that name."""
        if not references.SHORT.fullmatch(text) and references.parse(text) is None:
            return None
        try:
            return self.registry.resolve(text)
        except SourceNotFound:
            if references.SHORT.fullmatch(text):
                raise
            return None

    def filed(self, text: str) -> str:
        """The digest of an artifact; of a folder, once it is in the registry. Raises SourceNotFound."""
        path = self.found(text)
        return self.registry.add(path) if path is not None else self._known(text)

    def hold(self, digest: str) -> Path:
        """The folder of an artifact in the registry, leased until the desk closes."""
        if digest not in self._held:
            self._stack.enter_context(self.registry.lease(digest, "part of a pipeline"))
            self._held.add(digest)
        return self.registry.place(digest)

    def _known(self, text: str) -> str:
        digest = self.digest(text)
        if digest is None:
            fault = f"{text[:200]!r} is neither a folder nor an artifact of the registry"
            raise SourceNotFound(fault, "slmops models ls shows what it has")
        return digest

    def mark(self, kind: str, value: Any) -> str:
        """What tells an input from another: a digest. Raises SourceNotFound."""
        if isinstance(value, list):
            return store.digest([self.mark(kind, one) for one in value])
        if kind == "measurement":
            return store.digest(value)
        if not isinstance(value, str):
            raise UsageError(f"{value!r} leads to no {kind}", "give a text")
        if kind == "file":
            return store.file_digest(self.file(value))
        if kind == "folder":
            return _folder(self.path(value))
        path = self.found(value)
        if kind == "artifact" and path is not None:
            receipt.load(path)
            return f"receipt:{store.file_digest(path / receipt.NAME)}"
        if path is None and (digest := self.digest(value)) is not None:
            return digest
        return self._known(value) if kind == "artifact" else f"fingerprint:{compiler.fingerprint(self.model(value))}"


def _folder(path: Path) -> str:
    if not path.is_dir():
        raise SourceNotFound(f"there is no folder {path}", FROM)
    names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    return store.digest({name: store.file_digest(path / name) for name in names})
