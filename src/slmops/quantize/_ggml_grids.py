"""ggml types whose codes point into large tables, which gguf-py, llama.cpp's own package, has and expands."""

from __future__ import annotations

import functools

from slmops.core.errors import Unsupported
from slmops.core.tensor import Bytes, Floats
from slmops.quantize._ggml import Blocks


def by_grid(name: str, bits: int, group: int, block: int, halves: tuple[int, ...] = (0,)) -> Blocks:
    """The type of this name: bytes pass as they are, and become numbers where gguf-py is installed."""
    return Blocks(name, name.upper(), bits, group, block, functools.partial(_expand, name), halves=halves)


def _expand(name: str, blocks: Bytes) -> Floats:
    try:
        import gguf
    except ImportError:
        raise Unsupported(
            f"{name.upper()} is kept as it is between GGUF files; gguf-py turns it into numbers, and is not installed",
            "pip install gguf",
        ) from None
    found: Floats = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    return found
