"""What the rows of a matrix are weighed by while their codes are solved for."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core.store import no_space
from slmops.core.tensor import Array, Floats


@dataclass(frozen=True)
class Moments:
    """Second moments of a matrix's input, one for all rows or several for kinds of rows, in a .npy file."""

    path: Path
    """f32 [kinds, columns, columns]."""
    kinds: Array
    """Which of them is each row's, uint16 [rows]."""


def zeros(path: Path, shape: tuple[int, ...]) -> Floats:
    """A .npy file of f32 zeros, mapped for writing. Its blocks are taken at once: a disk that fills up under a map kills the
    process, and here it is NoSpace."""
    with no_space(path.parent):
        array: Floats = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def let_go(array: Floats) -> None:
    """Have the pages of a mapped file leave this process: what was written stays, in the system's cache and then on disk.

    All moments of a model are gigabytes, and only one matrix's are added to at a time.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def load(path: Path, kind: int) -> Floats:
    """f32 [columns, columns] of one kind of rows."""
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[kind])
