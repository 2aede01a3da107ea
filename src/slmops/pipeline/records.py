"""What steps made before: a JSON file a step in the registry's folder, named by the step's key.

A record says what came of a step; what it made lies in the registry. A record whose artifacts are gone counts for nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from slmops.core import receipt
from slmops.core.errors import CorruptInput
from slmops.core.store import no_space, write_whole
from slmops.registry import _lock

FOLDER = "steps"
WEEK = 7 * 24 * 3600.0
FORM: Any = {"key": str, "outputs": dict, "said": str, "verdicts": [dict], "seconds": int | float}


class Records:
    """The records of one registry."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER

    def recall(self, key: str) -> dict[str, Any] | None:
        """What came of the step with this key; None where nothing did, or its record cannot be read."""
        path = self._folder / f"{key}.json"
        if not path.is_file():
            return None
        with contextlib.suppress(CorruptInput):
            found: dict[str, Any] = receipt.parse(path)
            if receipt.misfit(found, FORM) is None and found["key"] == key:
                return found
        return None

    def keep(self, record: dict[str, Any]) -> None:
        """Written whole or not at all; what the step worked in goes then. Raises NoSpace."""
        write_whole(self._folder / f"{record['key']}.json", json.dumps(record))
        shutil.rmtree(self._folder / f"{record['key']}.work", ignore_errors=True)

    def work(self, key: str) -> Path:
        """A folder for a step to work in, until it is done."""
        folder = self._folder / f"{key}.work"
        with no_space(self._folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self, seconds: float = WEEK) -> None:
        """Remove what steps worked in, and left, so long ago."""
        left = [*self._folder.glob("*.work"), *self._folder.glob(".*.partial")] if self._folder.is_dir() else []
        for path in left:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > seconds:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def turn(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Held while a step runs: who wants the same one meanwhile waits, and then recalls it."""
        with no_space(self._folder):
            self._folder.mkdir(exist_ok=True)
        return _lock.held(self._folder / f"{key[:2]}.lock")  # few files; nobody holds two
