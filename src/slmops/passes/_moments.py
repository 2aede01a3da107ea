"""What calibration hands to the solvers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core.tensor import Floats


@dataclass(frozen=True)
class Moments:
    """E[x x^T] of the input of every matrix that is multiplied, one file a distinct input."""

    files: dict[str, Path]
    """Role -> a .npy file, f32 [columns, columns]; roles that share an input share the file."""
    tokens: int
    text: str
    """sha256 of the ids that were seen: with it a step is told from another."""

    def of(self, role: str) -> Floats | None:
        """The moments of a role's input; None for what is only looked up."""
        path = self.files.get(role)
        return None if path is None else np.load(path, mmap_mode="r", allow_pickle=False)
