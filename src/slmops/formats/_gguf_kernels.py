"""The loops that put 4-bit codes into ggml's order and back, compiled by numba; they release the GIL and touch only their
arguments.

Apart from _gguf_blocks.py because numba takes a second to import, which only who writes such a file should pay.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def nibbles(codes: Any, constants: Any, words: Any) -> None:  # pragma: no cover - compiled
    """codes uint8 [rows, groups * 16], constants uint16 [k, rows, groups] -> words uint16 [rows, groups, k + 8].

    The constants stand first in a block, then word i holds the elements 2i, 2i+1 low and 2i+16, 2i+17 high in its bytes.
    """
    first = constants.shape[0]
    for row in range(words.shape[0]):
        for group in range(words.shape[1]):
            for k in range(first):
                words[row, group, k] = constants[k, row, group]
            at = group * 16
            for i in range(8):
                low, high = np.uint16(codes[row, at + i]), np.uint16(codes[row, at + 8 + i])
                words[row, group, first + i] = (low & 15) | (low >> 4) << 8 | (high & 15) << 4 | (high >> 4) << 12


@numba.njit(nogil=True, cache=True)
def sequential(words: Any, constants: Any, codes: Any) -> None:  # pragma: no cover - compiled
    """The way back: words [rows, groups, k + 8] -> constants [k, rows, groups] (uint16), codes uint8 [rows, groups * 16]."""
    first = constants.shape[0]
    for row in range(words.shape[0]):
        for group in range(words.shape[1]):
            for k in range(first):
                constants[k, row, group] = words[row, group, k]
            at = group * 16
            for i in range(8):
                word = words[row, group, first + i]
                codes[row, at + i] = np.uint8((word & 15) | (word >> 4 & 0xF0))
                codes[row, at + 8 + i] = np.uint8((word >> 4 & 15) | (word >> 8 & 0xF0))
