"""Step: a pure function of digests and parameters to an artifact; equal steps make equal artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmops.core.store import digest


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
