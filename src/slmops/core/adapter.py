"""A low-rank adapter (LoRA): for some matrices W [out, in] a change of scale * B @ A, kept apart from the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmops.core.tensor import Floats


@dataclass(frozen=True)
class Pair:
    """a: f32 [rank, in]; b: f32 [out, rank]; the change of the matrix is scale * b @ a."""

    a: Floats
    b: Floats
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Adapter:
    """Pairs by the role of the matrix that each changes; never empty."""

    name: str
    pairs: Mapping[str, Pair]
    digest: str
    """sha256 of the file that the numbers came from."""
