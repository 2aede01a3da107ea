"""ggml's block layouts: the bytes of a row from a scheme's codes, and the codes from the bytes.

Source: ggml-common.h and ggml-quants.c (dequantize_row_*). Codes and constants of a block of 32 elements (d, m: f16):
Q4_0  18 bytes: d, then byte j = code[j] | code[j + 16] << 4;             value = d * (code - 8)
Q4_1  20 bytes: d, m, then the same nibbles;                               value = d * code + m
Q5_0  22 bytes: d, 32 fifth bits, the nibbles of the other four;           value = d * (code - 16)
Q5_1  24 bytes: d, m, 32 fifth bits, nibbles;                              value = d * code + m
Q8_0  34 bytes: d, then 32 int8;                                           value = d * int8, so int8 = code - 128
and of 256 elements, with values d * (code - 1):
TQ1_0 54 bytes: 48 bytes of five ternary digits, 4 bytes of four, d
TQ2_0 66 bytes: 64 bytes of four codes, d
The K and IQ types, whose scales are themselves codes, pass as their own bytes (quantize/_ggml.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slmops.core import scheme
from slmops.core.errors import CorruptInput
from slmops.core.layout import Block
from slmops.core.scheme import Codes, Scheme
from slmops.core.tensor import DTYPES, Array, Bytes, Floats
from slmops.formats import _encode
from slmops.quantize._affine import packed, unpacked
from slmops.quantize._cast import cast, check_finite
from slmops.quantize._ggml import Blocks

AFFINE = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq2_0", "tq1_0")
"""Schemes of codes and scales, smallest first among those of the same kind of codes."""
WHOLE = (
    "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "mxfp4",
)  # fmt: skip
"""Schemes whose codes are the ggml type's own bytes."""

KINDS = {name: name.upper() for name in (*AFFINE, *WHOLE, "f32", "f16", "bf16")}
"""What a tensor is held as -> the name of its ggml type."""
SCHEMES = {kind: name for name, kind in KINDS.items() if name in AFFINE + WHOLE}


def forms(held: Scheme) -> list[Scheme]:
    """The schemes that may take codes of `held`, the best first."""
    if isinstance(held, Blocks):
        return [held]
    own = [held.name] if held.name in AFFINE else []
    return [scheme.load(name) for name in dict.fromkeys([*own, *AFFINE])]


def q4_0(block: Codes) -> Array:
    """Rows of [.., groups * 16] bytes -> words [rows, groups, 9]."""
    return _nibbles(block, [block.scales])


def q4_1(block: Codes) -> Array:
    """-> words [rows, groups, 10]."""
    assert block.biases is not None
    return _nibbles(block, [block.scales, block.biases])


def _nibbles(block: Codes, constants: list[Floats]) -> Array:
    from slmops.formats import _gguf_kernels

    words = np.empty((*block.scales.shape, len(constants) + 8), np.uint16)
    _gguf_kernels.nibbles(block.codes, cast(np.stack(constants), DTYPES["f16"]).view(np.uint16), words)
    return words


def q5_0(block: Codes) -> Array:
    """-> bytes [rows, groups, 22]."""
    return _fives(block, [block.scales])


def q5_1(block: Codes) -> Array:
    """-> bytes [rows, groups, 24]."""
    assert block.biases is not None
    return _fives(block, [block.scales, block.biases])


def _fives(block: Codes, constants: list[Floats]) -> Array:
    rows, groups = block.scales.shape
    codes = unpacked(block.codes, 5, groups * 32).reshape(rows, groups, 32)
    high = np.packbits(codes >> 4, axis=-1, bitorder="little")
    nibbles = codes[..., :16] & 15 | codes[..., 16:] << 4
    head = [_halves(values) for values in constants]
    return np.concatenate([*head, high, nibbles], axis=-1)


def _halves(values: Floats) -> Bytes:
    """f32 [rows, groups] -> the bytes of f16 [rows, groups, 2]."""
    return np.ascontiguousarray(values.astype("<f2")[..., None]).view(np.uint8)


def q8_0(block: Codes) -> Array:
    """-> words [rows, groups, 17]. Subtracting 128 is flipping the top bit."""
    words = np.empty((*block.scales.shape, 17), np.uint16)
    words[..., 0] = block.scales.astype(np.float16).view(np.uint16)
    codes = np.ascontiguousarray(block.codes).view(np.uint16).reshape(*block.scales.shape, 16)
    np.bitwise_xor(codes, np.uint16(0x8080), out=words[..., 1:])
    return words


def tq2_0(block: Codes) -> Array:
    """-> bytes [rows, groups, 66]: byte m of a half of 128 holds the elements m, m + 32, m + 64, m + 96."""
    rows, groups = block.scales.shape
    codes = unpacked(block.codes, 2, groups * 256).reshape(rows, groups, 2, 4, 32)
    words = codes[..., 0, :] | codes[..., 1, :] << 2 | codes[..., 2, :] << 4 | codes[..., 3, :] << 6
    return np.concatenate([words.reshape(rows, groups, 64), _halves(block.scales)], axis=-1)


TERNARY_RUNS = ((0, 5, 32), (160, 5, 16), (240, 4, 4))
"""TQ1_0: (first element, digits in a byte, bytes): digit k of byte m is element first + k * bytes + m."""


def tq1_0(block: Codes) -> Array:
    """-> bytes [rows, groups, 54]. Digits d0 d1 .. make the number in base 3; the byte is ceil(number * 256 / 243)."""
    rows, groups = block.scales.shape
    codes = unpacked(block.codes, 2, groups * 256).reshape(rows, groups, 256)
    parts = []
    for first, digits, width in TERNARY_RUNS:
        run = codes[..., first : first + digits * width].reshape(rows, groups, digits, width).astype(np.uint16)
        powers = np.array([81, 27, 9, 3, 1][:digits], np.uint16)
        number = (run * powers[:, None]).sum(axis=2, dtype=np.uint16)
        parts.append(((number * np.uint32(256) + 242) // 243).astype(np.uint8))
    return np.concatenate([*parts, _halves(block.scales)], axis=-1)


ENCODERS: dict[str, Callable[[Codes], Array]] = {
    "q4_0": q4_0, "q4_1": q4_1, "q5_0": q5_0, "q5_1": q5_1, "q8_0": q8_0, "tq1_0": tq1_0, "tq2_0": tq2_0,
}  # fmt: skip


def parse(name: str, rows: Bytes, tensor: str = "", first: int = 0) -> Codes:
    """Bytes [rows, row bytes] of a quantized type -> codes of the scheme of that name, any bytes at all.

    Raises CorruptInput on scales that are no numbers, naming the `tensor` and the row (`rows` start with row `first`), and
    on ternary codes of 3, which stand for nothing.
    """
    count, held = rows.shape[0], scheme.load(name)
    if isinstance(held, Blocks):
        blocks = np.ascontiguousarray(rows).reshape(count, -1, held.block)
        for at in held.halves:
            _scales(blocks[..., at : at + 2], tensor, first)
        return Codes(rows, np.empty((count, 0), np.float32))
    if name in ("q4_0", "q4_1"):
        return _four(rows, count, 1 if name == "q4_0" else 2, tensor, first)
    nbytes = {"q5_0": 22, "q5_1": 24, "q8_0": 34, "tq1_0": 54, "tq2_0": 66}[name]
    blocks = np.ascontiguousarray(rows).reshape(count, -1, nbytes)
    ternary, offset = name.startswith("tq"), 0 if held.zero is not None else 2
    scales = _scales(blocks[..., -2:] if ternary else blocks[..., :2], tensor, first)
    biases = _scales(blocks[..., 2:4], tensor, first) if offset else None
    body = blocks[..., :-2] if ternary else blocks[..., 2 + offset :]
    if name == "q8_0":
        codes = (np.ascontiguousarray(body) ^ np.uint8(0x80)).reshape(count, -1)
    elif name in ("q5_0", "q5_1"):
        nibbles = np.concatenate([body[..., 4:] & 15, body[..., 4:] >> 4], axis=-1)
        fifth = np.unpackbits(np.ascontiguousarray(body[..., :4]), axis=-1, bitorder="little")
        codes = packed((nibbles | fifth << 4).reshape(count, -1), 5)
    else:
        values = _ternary1(body) if name == "tq1_0" else _ternary2(body)
        if (values > 2).any():
            raise CorruptInput(f"{tensor} has a {name.upper()} code of 3, which is no ternary digit", "download it again")
        codes = packed(values.reshape(count, -1), 2)
    return Codes(codes, scales, None, biases)


def _scales(halves: Bytes, tensor: str, first: int) -> Floats:
    values = cast(np.ascontiguousarray(halves).view("<f2")[..., 0], DTYPES["f32"])
    check_finite(values, f"the scales of {tensor}", first)
    return values


def _four(rows: Bytes, count: int, constants: int, tensor: str, first: int) -> Codes:
    """Q4_0 (a scale) and Q4_1 (a scale and a minimum)."""
    from slmops.formats import _gguf_kernels

    words = np.ascontiguousarray(rows).view("<u2").reshape(count, -1, constants + 8)
    halves = np.empty((constants, *words.shape[:2]), np.uint16)
    codes = np.empty((count, words.shape[1] * 16), np.uint8)
    _gguf_kernels.sequential(words, halves, codes)
    numbers = cast(halves.view(np.float16), DTYPES["f32"])
    for part in numbers:
        check_finite(part, f"the scales of {tensor}", first)
    return Codes(codes, numbers[0], None, numbers[1] if constants == 2 else None)


def _ternary2(body: Bytes) -> Bytes:
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return (body.reshape(*body.shape[:2], 2, 1, 32) >> shifts) & np.uint8(3)


def _ternary1(body: Bytes) -> Bytes:
    """Digit k of a byte is the whole part of 3 * (the fraction that 3^k * byte / 256 leaves)."""
    parts, at = [], 0
    for _, digits, width in TERNARY_RUNS:
        powers = np.array([1, 3, 9, 27, 81][:digits], np.uint8)[:, None]
        turned = body[..., None, at : at + width] * powers
        parts.append((turned.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(*body.shape[:2], -1))
        at += width
    return np.concatenate(parts, axis=-1)


def encoder(stored: str, dtype: np.dtype[np.generic], head_dim: int | None) -> Callable[[Block], Array]:
    """Block of what is `stored` (a scheme, or plain) -> bytes of its ggml type; with `head_dim` rows are permuted first."""
    plain = _encode.dense(dtype)

    def encode(block: Block) -> Array:
        if head_dim is not None:
            block = permute(block, head_dim)
        if not isinstance(block, Codes):
            return plain(block)
        return ENCODERS[stored](block) if stored in ENCODERS else block.codes

    return encode


def permute(block: Block, head_dim: int, back: bool = False) -> Block:
    """Rows of whole heads from Hugging Face's order (halves) to llama.cpp's (interleaved pairs), or `back`.

    Row i and row i + head_dim/2 of a head are rotated together; llama.cpp's llama wants them side by side
    (conversion/llama.py: LlamaModel.permute). Only rows move: no number changes.
    """
    if not isinstance(block, Codes):
        return permute_rows(block, head_dim, back)
    parts = [block.codes, block.scales, block.zeros, block.biases]
    return Codes(*(None if part is None else permute_rows(part, head_dim, back) for part in parts))  # type: ignore[arg-type]


def permute_rows(rows: Array, head_dim: int, back: bool = False) -> Array:
    """The same of plain numbers or bytes."""
    inner = (head_dim // 2, 2) if back else (2, head_dim // 2)
    heads = rows.reshape(rows.shape[0] // head_dim, *inner, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
