"""The models of a server, by name: loaded when first asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from slmops.core.errors import SourceNotFound
from slmops.engines import Options
from slmops.serve.model import Model, State


class Models:
    """The models of a server, by name."""

    def __init__(self, folders: Mapping[str, Path], engine: str | None, options: Options, depth: int) -> None:
        self._folders, self._engine, self._options, self._depth = dict(folders), engine, options, depth
        self._loaded: dict[str, Model] = {}
        self._lock = threading.Lock()
        self.began = time.time()

    @property
    def names(self) -> list[str]:
        return list(self._folders)

    def get(self, name: str) -> Model:
        """The model of a name, its thread started. Raises SourceNotFound naming those that there are."""
        with self._lock:
            folder = self.folder(name)
            if name not in self._loaded:
                self._loaded[name] = Model(name, folder, self._engine, self._options, self._depth)
            return self._loaded[name]

    def folder(self, name: str) -> Path:
        """Where the model of a name lies. Raises SourceNotFound naming those that there are."""
        if name not in self._folders:
            known = ", ".join(list(self._folders)[:20])
            raise SourceNotFound(f"no model {name[:100]!r} is served here", f"one of: {known}")
        return self._folders[name]

    def load(self, name: str) -> None:
        """Have the model of a name at hand. Raises SourceNotFound, and what opening raises."""
        self.get(name)

    def unload(self, name: str) -> bool:
        """Let the model of a name go once it has answered what it is asked; whether it was there."""
        with self._lock:
            model = self._loaded.pop(name, None)
        if model is not None:
            model.close()
        return model is not None

    def states(self) -> list[State]:
        with self._lock:
            return [one.state for one in self._loaded.values()]

    def close(self) -> None:
        with self._lock:
            for model in self._loaded.values():
                model.close()
            self._loaded.clear()
