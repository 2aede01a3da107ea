"""Layout: where each tensor's bytes will land in an artifact, known before a weight is read.

A format's `plan(model)` returns one. `compile.py` then pulls every tensor block by block, once, and lets each format's
regions encode the block into place. So writing five formats costs one pass over the weights, and sizes are exact before
any file is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slmops.core.scheme import Codes, Scheme
from slmops.core.tensor import Array

Block = Codes | Array
"""What a tensor gives for some rows: codes where it is packed, plain numbers in the tensor's own dtype where not."""


@dataclass(frozen=True)
class Region:
    """A part of a file that rows of one tensor fill, in order.

    `unit_rows` rows take `unit_bytes` bytes; blocks start at multiples of unit_rows (Spec.row_multiple sees to it).
    `encode` gets a block and returns its bytes as any contiguous array; it must be pure and thread-safe.
    """

    file: str
    offset: int
    unit_bytes: int
    encode: Callable[[Block], Array]
    unit_rows: int = 1


@dataclass(frozen=True)
class Layout:
    """An artifact that is yet to be written."""

    format: str
    sizes: Mapping[str, int]
    """Streamed files -> their total size in bytes."""
    literals: tuple[tuple[str, int, bytes], ...]
    """(streamed file, offset, bytes): headers and constants."""
    regions: Mapping[str, tuple[Region, ...]]
    """Role -> where its rows go. Every role of the model has at least one region."""
    files: Mapping[str, bytes]
    """Small files, whole."""
    side_jobs: tuple[Callable[[Path], None], ...] = ()
    """Work that needs no weights and runs beside the streaming, given the artifact's (temporary) folder."""
    forms: Mapping[str, Scheme] = field(default_factory=dict)
    """Role -> the scheme that a packed tensor has in this format, where that is another than the model's: encoders get
    blocks of this one. The numbers are the same."""
    unpacked: frozenset[str] = frozenset()
    """Roles of packed tensors whose numbers this format stores plain, exactly, because it has no codes for them there."""
    notes: tuple[str, ...] = field(default=())
    """What a user should know: what stays in high precision and why, what was left out."""

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values()) + sum(len(content) for content in self.files.values())
