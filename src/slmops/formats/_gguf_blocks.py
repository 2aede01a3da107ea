"""ggml's block layouts: the bytes of a row of Q4_0, Q4_1 and Q8_0 from a scheme's codes, and the codes from the bytes.

Every block holds 32 elements of a row. Source: ggml-common.h and ggml-quants.c (dequantize_row_*):
Q4_0  18 bytes: f16 d, then byte j = code[j] | code[j + 16] << 4;        value = d * (code - 8)
Q4_1  20 bytes: f16 d, f16 m, then the same nibbles;                      value = d * code + m, so m = -d * zero
Q8_0  34 bytes: f16 d, then 32 int8;                                      value = d * int8, so int8 = code - 128
All are even, so a block is handled as 16-bit words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slmops.core.errors import CorruptInput
from slmops.core.layout import Block
from slmops.core.scheme import Codes
from slmops.core.tensor import Array, Bytes, Floats
from slmops.formats import _encode

KINDS = {"q4": "Q4_0", "q4a": "Q4_1", "q8": "Q8_0", "f32": "F32", "f16": "F16", "bf16": "BF16"}
"""What a tensor is stored as -> the name of its ggml type."""

SCHEMES = {"Q4_0": "q4", "Q4_1": "q4a", "Q8_0": "q8"}


def q4_0(block: Block) -> Array:
    """Codes of q4, rows of [.., groups * 16] bytes -> words [rows, groups, 9]."""
    assert isinstance(block, Codes)
    return _nibbles(block, [block.scales])


def q4_1(block: Block) -> Array:
    """Codes of q4a -> words [rows, groups, 10]."""
    assert isinstance(block, Codes) and block.zeros is not None
    return _nibbles(block, [block.scales, block.scales * -block.zeros.astype(np.float32)])


def _nibbles(block: Codes, constants: list[Floats]) -> Array:
    from slmops.formats import _gguf_kernels

    words = np.empty((*block.scales.shape, len(constants) + 8), np.uint16)
    _gguf_kernels.nibbles(block.codes, np.stack(constants).astype(np.float16).view(np.uint16), words)
    return words


def q8_0(block: Block) -> Array:
    """Codes of q8 -> words [rows, groups, 17]. Subtracting 128 is flipping the top bit."""
    assert isinstance(block, Codes)
    words = np.empty((*block.scales.shape, 17), np.uint16)
    words[..., 0] = block.scales.astype(np.float16).view(np.uint16)
    codes = np.ascontiguousarray(block.codes).view(np.uint16).reshape(*block.scales.shape, 16)
    np.bitwise_xor(codes, np.uint16(0x8080), out=words[..., 1:])
    return words


def _sequential(words: Array) -> Bytes:
    """The way back: nibble words [rows, groups, 8] -> sequential codes [rows, groups * 16]."""
    low, high = words & 0x0F0F, words >> 4 & 0x0F0F
    spread = np.concatenate([low, high], axis=-1)
    packed: Bytes = (spread | spread >> 4).astype(np.uint8).reshape(words.shape[0], -1)
    return packed


def parse(kind: str, rows: Bytes) -> Codes:
    """Bytes [rows, row bytes] of a quantized type -> codes of the scheme that slmops wrote them from.

    Raises CorruptInput on blocks that no such scheme makes: scales that are no numbers, a Q4_1 minimum that is no whole
    multiple of the scale, the Q8_0 code -128.
    """
    nbytes = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    words = np.ascontiguousarray(rows).view("<u2").reshape(rows.shape[0], -1, nbytes // 2)
    scales = np.ascontiguousarray(words[..., 0]).view(np.float16).astype(np.float32)
    if not np.isfinite(scales).all():
        raise CorruptInput(f"a {kind} block has a scale that is no number", "the file is damaged: write it again")
    if kind == "Q4_0":
        return Codes(_sequential(words[..., 1:]), scales)
    if kind == "Q8_0":
        codes = (np.ascontiguousarray(words[..., 1:]) ^ np.uint16(0x8080)).view(np.uint8)
        return Codes(codes.reshape(rows.shape[0], -1), scales)
    least = np.ascontiguousarray(words[..., 1]).view(np.float16).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where(scales == 0, np.float32(0), np.rint(-least / scales))
    if not ((zeros >= 0) & (zeros <= 15) & (scales * -zeros == least)).all():
        raise CorruptInput("a Q4_1 block has a minimum that is no zero point of its scale", "slmops did not write it")
    return Codes(_sequential(words[..., 2:]), scales, zeros.astype(np.uint8))


ENCODERS: dict[str, Callable[[Block], Array]] = {"Q4_0": q4_0, "Q4_1": q4_1, "Q8_0": q8_0}


def encoder(kind: str, dtype: np.dtype[np.generic], head_dim: int | None) -> Callable[[Block], Array]:
    """Block -> bytes of a ggml type; `dtype` is that of a plain type; with `head_dim` rows are permuted first."""
    encode = ENCODERS.get(kind) or _encode.dense(dtype)
    if head_dim is None:
        return encode

    def permuted(block: Block) -> Array:
        return encode(permute(block, head_dim))

    return permuted


def permute(block: Block, head_dim: int, back: bool = False) -> Block:
    """Rows of whole heads from Hugging Face's order (halves) to llama.cpp's (interleaved pairs), or `back`.

    Row i and row i + head_dim/2 of a head are rotated together; llama.cpp's llama wants them side by side
    (conversion/llama.py: LlamaModel.permute). Only rows move: no number changes.
    """
    if isinstance(block, Codes):
        zeros = None if block.zeros is None else _permuted(block.zeros, head_dim, back)
        return Codes(_permuted(block.codes, head_dim, back), _permuted(block.scales, head_dim, back), zeros)
    return _permuted(block, head_dim, back)


def _permuted(rows: Array, head_dim: int, back: bool) -> Array:
    inner = (head_dim // 2, 2) if back else (2, head_dim // 2)
    heads = rows.reshape(-1, *inner, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
