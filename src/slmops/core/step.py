"""Step: a pure function of digests and parameters to a folder, run once and then remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core.store import Store, digest


@dataclass(frozen=True)
class Step:
    """What is done, to what, how, and by which code; equal steps make equal folders."""

    verb: str
    inputs: Mapping[str, str]
    """Name -> digest (or fingerprint) of what goes in."""
    parameters: Mapping[str, Any]
    code: str
    """Version of the code whose change would change the output."""

    @property
    def key(self) -> str:
        return digest({"verb": self.verb, "inputs": self.inputs, "parameters": self.parameters, "code": self.code})

    def facts(self) -> dict[str, Any]:
        """The step in words, for receipts and lineage."""
        return {"verb": self.verb, "inputs": dict(self.inputs), "parameters": dict(self.parameters), "code": self.code}


def run(step: Step, store: Store, make: Callable[[Path], None]) -> Path:
    """The step's folder in the store: recalled when it was made before, else made by `make(folder)` and kept.

    Whatever `make` raises passes through, and nothing is kept.
    """
    if (known := store.recall(step.key)) is not None:
        return store.path(known)
    with store.scratch() as folder:
        made = folder / "made"
        made.mkdir()
        make(made)
        name = store.add(made)
    store.remember(step.key, name, {"step": step.facts()})
    return store.path(name)
