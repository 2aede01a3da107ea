"""What the rows of a matrix are weighed by while their codes are solved for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core.tensor import Array, Floats


@dataclass(frozen=True)
class Moments:
    """Second moments of a matrix's input, one for all rows or several for kinds of rows, in a .npy file."""

    path: Path
    """f32 [kinds, columns, columns]."""
    kinds: Array
    """Which of them is each row's, uint16 [rows]."""


def load(path: Path, kind: int) -> Floats:
    """f32 [columns, columns] of one kind of rows."""
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[kind])
