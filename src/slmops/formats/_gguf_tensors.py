"""A GGUF's tensors as they lie in the file: packed ones code for code, the rest as plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from slmops.core import scheme
from slmops.core.errors import CorruptInput
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import DTYPES, Array, Lazy, Tensor
from slmops.formats import _gguf_blocks as blocks
from slmops.formats._gguf_container import Place


def rows_of(file: Path, place: Place) -> Callable[[int, int], Array]:
    """(start, stop) -> the rows' bytes [rows, row bytes]."""
    width = place.nbytes // place.shape[0]

    def rows(start: int, stop: int) -> Array:
        count = (stop - start) * width
        data = np.fromfile(file, np.uint8, count, offset=place.offset + start * width)
        if data.size != count:
            raise CorruptInput(f"{file.name} was cut short while it was read", "write it again")
        return data.reshape(stop - start, width)

    return rows


def tensor(name: str, file: Path, place: Place, head_dim: int | None) -> Tensor:
    """A tensor in Hugging Face's row order. Blocks start and stop at whole heads where rows were permuted."""
    stored = rows_of(file, place)
    held = blocks.SCHEMES.get(place.kind.name)
    if held is not None:

        def codes(start: int, stop: int) -> Codes:
            block = blocks.parse(held, stored(start, stop), name, start)
            if head_dim is not None:
                block = blocks.permute(block, head_dim, back=True)  # type: ignore[assignment]
            return block

        return Packed(place.shape, scheme.load(held), codes, codes)
    dtype = DTYPES[place.kind.name.lower()]

    def rows(start: int, stop: int) -> Array:
        values = stored(start, stop).view(dtype).reshape(stop - start, *place.shape[1:])
        return values if head_dim is None else blocks.permute_rows(values, head_dim, back=True)

    return Lazy(place.shape, dtype, rows)
