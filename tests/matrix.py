"""Every reader x every scheme x every writer: what becomes of codes, worked out by trying, and the table that says so.

    python tests/matrix.py > docs/matrix.md

Each cell writes a real artifact from codes with ordinary, lucky and wild scales, and has it decoded by somebody else.
"""

from __future__ import annotations

import functools
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import decoders
from slmops import stream
from slmops.core import plugins, scheme
from slmops.core.errors import Unsupported
from slmops.core.model import Model, Tokenizer
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.tensor import Constant, Tensor
from slmops.passes.quantize import chooser
from slmops.quantize._affine import Affine, grid, packed, parse
from slmops.quantize.w8a8 import ByRow

ROLE = "layers.0.mlp.down"
SHAPE = (256, 512)
WRITERS = ("gguf", "mlx", "onnx", "openvino", "compressed_tensors", "huggingface")
GROUPS = (32, 64, 128)


def _grids(widths: tuple[int, ...], scales: tuple[str, ...], *, zero: bool, biased: bool = False) -> list[str]:
    """Names: with free zero points (or biases), or around the middle."""
    return [grid(b, g, s, zero=None if zero or biased else 1 << (b - 1), biased=biased).name
            for b in widths for g in GROUPS for s in scales]  # fmt: skip


READERS: dict[str, list[str]] = {
    "gguf": ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0",
             "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
             "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "mxfp4"],
    "mlx": _grids((2, 3, 4, 5, 6, 8), ("f16", "bf16", "f32"), zero=False, biased=True),
    "gptq": _grids((2, 3, 4, 8), ("f16",), zero=True),
    "awq": _grids((4,), ("f16",), zero=True),
    "compressed_tensors": [*_grids((4, 8), ("f16", "bf16", "f32"), zero=False),
                           *_grids((4, 8), ("f16", "bf16", "f32"), zero=True)],
    "onnx": [*_grids((4, 8), ("f16", "f32"), zero=False), *_grids((4, 8), ("f16", "f32"), zero=True), "w8a8"],
    "openvino": [*_grids((4, 8), ("f16",), zero=False), *_grids((4, 8), ("f16",), zero=True), "w8a8"],
    "bitnet": ["ternary-bf16", "ternary-f32"],
    "slmops": ["q4", "q8", "q4a", "w8a8"],
}  # fmt: skip
"""Reader -> the schemes that it finds, but for plain numbers. `slmops`: what quantizing here makes."""


def held(name: str) -> Scheme:
    """The scheme of a row. BitNet has one scale for a whole matrix."""
    if name.startswith("ternary"):
        return grid(2, SHAPE[1], name.removeprefix("ternary-"), zero=1)
    return parse(name) or scheme.load(name)


def codes_of(chosen: Scheme, luck: str) -> Codes:
    """Codes that the scheme may hold. luck: `plain` (ordinary weights), `lucky` (scales of one bit, zero points in the
    middle) or `wild` (scales with every bit that the dtype has, any zero point)."""
    rng = np.random.default_rng(zlib.crc32(f"{chosen.name} {luck}".encode()))
    rows, columns = SHAPE
    if not isinstance(chosen, Affine):
        if chosen.name in decoders.GRIDS:
            return Codes(
                decoders.grid_bytes(chosen.name, chosen.nbytes(SHAPE) // rows, rows), np.empty((rows, 0), np.float32)
            )
        return chosen.quantize((rng.standard_normal(SHAPE) * 0.05).astype(np.float32))
    groups = columns // chosen.group
    ternary = chosen.zero == 1
    codes = rng.integers(0, 3 if ternary else 1 << chosen.bits, SHAPE, dtype=np.uint8)
    span = 10 if chosen.scale == np.float16 else 60
    exponents = rng.integers(-9, -5, (rows, groups)) if luck != "wild" else rng.integers(-span, 4, (rows, groups))
    if luck == "lucky":
        scales = np.ldexp(1.0, exponents)
    else:
        top = 1 << (chosen.significand - 1)
        scales = np.ldexp(rng.integers(top, 2 * top, (rows, groups)) / top, exponents)
    if ternary and groups == 1:  # BitNet: one for the whole matrix
        scales = np.full(scales.shape, np.ldexp(scales[0, 0], -span if luck == "wild" else 0))
    if isinstance(chosen, ByRow):
        scales = np.repeat(scales[:, :1], groups, axis=1)
    middle = 1 << (chosen.bits - 1)
    zeros = biases = None
    if chosen.biased:
        points = np.full((rows, groups), middle) if luck == "lucky" else rng.integers(0, 1 << chosen.bits, (rows, groups))
        biases = (-scales * points if luck != "wild" else rng.permuted(scales) * 3).astype(chosen.scale).astype(np.float32)
    elif chosen.zero is None:
        wide = rng.integers(0, 1 << chosen.bits, (rows, groups), dtype=np.uint8)
        zeros = np.full((rows, groups), middle, np.uint8) if luck == "lucky" else wide
    stored = codes if chosen.bits == 8 else packed(codes, chosen.bits)
    exact = np.ascontiguousarray(scales.astype(chosen.scale).astype(np.float32))
    return Codes(stored, exact, zeros, biases)


@functools.cache
def frame() -> Model:
    """A one-layer llama of zeros to put a matrix into."""
    module = plugins.load("architectures", "llama")
    config = {**module.TOY, "hidden_size": SHAPE[0], "intermediate_size": SHAPE[1], "num_hidden_layers": 1,
              "head_dim": 64, "vocab_size": 320, "rope_scaling": None, "tie_word_embeddings": True}  # fmt: skip
    spec = module.spec(config)
    tensors = {role: Constant(np.zeros(shape, np.float32)) for role, shape in module.shapes(spec).items()}
    from conftest import byte_level_tokenizer

    tokenizer = byte_level_tokenizer(300)
    return Model("frame", spec, tensors, Tokenizer(tokenizer.to_str().encode(), {}, None, (1,), None, False), None, config)


def filled(chosen: Scheme, codes: Codes) -> Model:
    def block(start: int, stop: int) -> Codes:
        parts = (codes.codes, codes.scales, codes.zeros, codes.biases)
        return Codes(*(None if part is None else part[start:stop] for part in parts))  # type: ignore[arg-type]

    tensors: dict[str, Tensor] = {**frame().tensors, ROLE: Packed(SHAPE, chosen, block, block)}
    return Model(**{**frame().__dict__, "tensors": tensors})


def numbers(chosen: Scheme, codes: Codes) -> np.ndarray:
    """What codes stand for, in f64, without the code under test but for ggml's own blocks (which gguf-py decodes)."""
    if not isinstance(chosen, Affine):
        return decoders.ggml(codes.codes, chosen.name).astype(np.float64)
    values = decoders.bits(codes.codes, chosen.bits, SHAPE[1]).astype(np.float64).reshape(SHAPE[0], -1, chosen.group)
    scales = codes.scales.astype(np.float64)[..., None]
    if codes.biases is not None:
        return (values * scales + codes.biases.astype(np.float64)[..., None]).reshape(SHAPE)
    zeros = float(chosen.zero) if codes.zeros is None else codes.zeros.astype(np.float64)[..., None]  # type: ignore[arg-type]
    return ((values - zeros) * scales).reshape(SHAPE)


def attempt(chosen: Scheme, luck: str, writer: str, folder: Path) -> str:
    """`held`, `refused`, or what went wrong."""
    codes = codes_of(chosen, luck)
    model, module = filled(chosen, codes), plugins.load("formats", writer)
    try:
        layout = module.plan(model)
    except Unsupported as refusal:
        return "refused" if "--requantize" in refusal.cure else f"refused without a cure: {refusal}"
    folder.mkdir()
    stream.write(model, {writer: layout}, {writer: folder})
    expected, found = numbers(chosen, codes), decoders.decode(writer, folder)
    away = np.abs(found - expected)
    # Products with scales of f32 have more bits than f32: decoders round them, and the sum with a bias once more.
    fine = chosen.scale == np.float32 if isinstance(chosen, Affine) else False
    span = codes.scales.max() * (1 << chosen.bits) if fine else 0.0
    same = np.array_equal(found, expected.astype(np.float32)) or (fine and away.max() <= span * 2**-23)
    return "held" if same else f"{(away != 0).sum()} numbers differ"


def cell(name: str, writer: str) -> str:
    """exact | conditional | unsupported; raises AssertionError where anything but that happened."""
    chosen = held(name)
    with tempfile.TemporaryDirectory() as scratch:
        found = {luck: attempt(chosen, luck, writer, Path(scratch) / luck) for luck in ("plain", "lucky", "wild")}
    wrong = {luck: said for luck, said in found.items() if said not in ("held", "refused")}
    assert not wrong, f"{name} -> {writer}: {wrong}"
    outcomes = set(found.values())
    return "exact" if outcomes == {"held"} else "unsupported" if outcomes == {"refused"} else "conditional"


def requantized(name: str, writer: str, folder: Path) -> None:
    """The way out of every refusal: `--quantize q4 --requantize`."""
    from slmops.passes.quantize import quantize

    chosen = held(name)
    model = quantize(filled(chosen, codes_of(chosen, "plain")), chooser("q4"), again=True)
    folder.mkdir()
    stream.write(model, {writer: plugins.load("formats", writer).plan(model)}, {writer: folder})
    assert np.array_equal(decoders.decode(writer, folder), model.tensors[ROLE].rows(0, SHAPE[0]))


def rows() -> Iterator[tuple[str, str]]:
    for reader, names in READERS.items():
        for name in names:
            yield reader, name


def table(cells: Callable[[str, str], str]) -> str:
    """Markdown: a line for each reader and kind of scheme; schemes of equal cells share one."""
    signs = {"exact": "exact", "conditional": "conditional", "unsupported": "-"}
    lines = ["| read from | codes | " + " | ".join(w.replace("_", "-") for w in WRITERS) + " |", "|---|---|" + "---|" * 6]
    for reader, names in READERS.items():
        same: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            same.setdefault(tuple(signs[cells(name, writer)] for writer in WRITERS), []).append(name)
        for line, alike in same.items():
            lines.append(f"| {reader.replace('_', '-')} | {', '.join(_short(alike))} | {' | '.join(line)} |")
    return "\n".join(lines) + "\n"


def _short(names: list[str]) -> list[str]:
    """Names that differ only in the group become one, without it, where every group is there."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"-g\d+", "", name), []).append(name)
    return [one for stem, alike in found.items() for one in ([stem] if len(alike) == len(GROUPS) else alike)]


if __name__ == "__main__":
    known = functools.cache(cell)
    print(table(known), end="")
