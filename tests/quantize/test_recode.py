"""Codes of one scheme as codes of another: held against rational arithmetic, scheme pair by scheme pair."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.core import scheme
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import DTYPES
from slmops.quantize._affine import Affine, grid, packed, unpacked
from slmops.quantize._cast import cast
from slmops.quantize._recode import Inexact, always, fit, recode

NAMED = ("q4", "q4a", "q8", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0")
GRIDS = [
    grid(bits, group, scale, **form)
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    for scale in ("f16", "bf16", "f32")
    for form in ({"zero": 1 << (bits - 1)}, {}, {"biased": True})
]
SCHEMES: list[Affine] = [*(scheme.load(name) for name in NAMED), *GRIDS]  # type: ignore[list-item]


def numbers(rng: np.random.Generator, held: Affine, shape: tuple[int, int], mild: bool) -> np.ndarray:
    """Scales that the scheme may have: of its significand and range; `mild` ones are few and far from the range's ends."""
    values = rng.choice([0.5, 0.25, -0.125, 0.0], shape) if mild else rng.standard_normal(shape) * 0.02
    mantissa, exponent = np.frexp(values.astype(np.float64))
    bits = held.significand
    values = np.ldexp(np.rint(mantissa * 2**bits), exponent - bits)
    return cast(values.astype(np.float32), DTYPES["f32"] if held.wide else DTYPES["f16"]).astype(np.float32)


def make(held: Affine, seed: int, mild: bool = False) -> Codes:
    """Two rows of 256 columns with any codes at all."""
    rng = np.random.default_rng(seed)
    shape = (2, 256 // held.group)
    top = 3 if held.name.startswith("tq") else 1 << held.bits
    codes = packed(rng.integers(0, top, (2, 256)).astype(np.uint8), held.bits)
    scales = numbers(rng, held, shape, mild)
    if held.biased:
        biases = numbers(rng, held, shape, mild) if not mild else -scales * rng.integers(0, 4, shape).astype(np.float32)
        return Codes(codes, scales, None, biases.astype(np.float32))
    zeros = rng.integers(0, 1 << held.bits, shape).astype(np.uint8) if held.zero is None else None
    return Codes(codes, scales, zeros)


def exact(codes: Codes, held: Affine) -> list[Fraction]:
    """The numbers themselves: no rounding anywhere."""
    values = unpacked(codes.codes, held.bits, 256).astype(int)
    result = []
    for row in range(2):
        for column in range(256):
            group = column // held.group
            scale, code = Fraction(float(codes.scales[row, group])), int(values[row, column])
            if held.biased:
                assert codes.biases is not None
                result.append(scale * code + Fraction(float(codes.biases[row, group])))
            else:
                zero = held.zero if codes.zeros is None else int(codes.zeros[row, group])
                result.append(scale * (code - int(zero or 0)))
    return result


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SCHEMES), st.sampled_from(SCHEMES), st.integers(0, 2**32 - 1), st.booleans())
def test_what_is_recoded_is_the_same_numbers(source: Affine, target: Affine, seed: int, mild: bool) -> None:
    answer = always(source, target)
    if answer is False:
        return
    codes = make(source, seed, mild)
    try:
        found = recode(codes, source, target)
    except Inexact:
        assert answer is None, "always() promised that it is exact"
        return
    assert exact(found, target) == exact(codes, source)
    assert found.codes.shape == (2, 256 * target.bits // 8)
    assert found.scales.shape == (2, 256 // target.group)
    assert target.scale == DTYPES["f32"] or np.array_equal(
        found.scales.astype(target.scale).astype(np.float32), found.scales
    )
    assert (
        target.wide
        or found.biases is None
        or np.array_equal(found.biases.astype(np.float16).astype(np.float32), found.biases)
    )


@pytest.mark.parametrize(
    ("source", "target", "answer"),
    [
        # quantization.md's rules, each with the reason it is so
        ("q4", "q4_0", True),  # the same codes, a scale of fewer bits
        ("q4a", "q4_1", True),  # 7 + 4 significant bits fit f16
        ("q8", "q8_0", True),
        ("q4_0", "q4", None),  # 11 bits of scale may or may not fit 8
        ("q4_1", "q4a", None),
        ("q8_0", "q4_0", False),  # fewer bits
        (grid(4, 128, "f16"), "q4_0", None),  # a zero point of 8 everywhere is possible, and rare
        (grid(4, 128, "f16"), "q4_1", None),  # -zero * scale needs 15 bits
        (grid(4, 128, "f16"), "q5_0", True),  # code - zero lies in -15 .. 15
        (grid(4, 128, "f16"), "q8_0", True),
        (grid(4, 128, "f16", zero=8), "q4_0", True),
        (grid(4, 128, "bf16", zero=8), "q4_0", None),  # bf16 reaches further than f16
        (grid(3, 128, "f16"), "q4_0", True),  # code - zero lies in -7 .. 7
        (grid(2, 64, "f16"), "q4_0", True),
        (grid(4, 32, "f16", biased=True), "q4_1", True),
        (grid(4, 32, "bf16", biased=True), "q4_1", None),
        (grid(4, 32, "f16"), grid(4, 32, "f32", biased=True), True),  # 11 + 4 bits fit f32
        (grid(8, 32, "f16"), grid(8, 32, "f32", biased=True), True),
        (grid(4, 32, "f32"), grid(4, 32, "f32", biased=True), None),
        ("tq2_0", "tq1_0", True),
        ("tq2_0", "q4_0", True),  # -1, 0, 1 are codes of anything
        (grid(4, 32, "f16"), grid(4, 64, "f16"), False),  # groups are cut, never joined
        (grid(6, 64, "f16", biased=True), grid(8, 64, "f16"), None),
        ("q4_0", "q4_k", False),
    ],
)
def test_what_follows_from_the_schemes_alone(source: str | Affine, target: str | Affine, answer: bool | None) -> None:
    pair = [scheme.load(one) if isinstance(one, str) else one for one in (source, target)]
    assert always(*pair) is answer


def codes_of(block: Codes) -> Callable[[int, int], Codes]:
    return lambda start, stop: block


def test_integer_zero_points_go_to_the_smallest_type_that_holds_them() -> None:
    """Among GGUF's: 4-bit codes with zero points that are all 8 are Q4_0, others Q5_0."""
    held = grid(4, 128, "f16")
    targets = [scheme.load(name) for name in ("q4_0", "q4_1", "q5_0", "q8_0")]
    codes = make(held, 1)
    eights = Codes(codes.codes, codes.scales, np.full_like(codes.zeros, 8))
    for block, name in ((eights, "q4_0"), (codes, "q5_0")):
        found = fit(Packed((2, 256), held, codes_of(block), codes_of(block)), targets)
        assert found is not None and found.name == name


def test_a_scan_does_not_read_codes() -> None:
    held = grid(4, 32, "bf16", biased=True)
    codes = make(held, 2, mild=True)

    def block(start: int, stop: int) -> Codes:
        raise AssertionError("codes were read")

    tensor = Packed(
        (2, 256), held, block, lambda start, stop: Codes(np.empty((2, 0), np.uint8), codes.scales, None, codes.biases)
    )
    found = fit(tensor, [grid(4, 32, "f16", zero=8), grid(4, 32, "f16")])
    assert found is not None and found.name == "int4-g32-zero-f16"


@pytest.mark.parametrize("bits", range(1, 9))
def test_dense_codes_unpack_as_python_reads_the_bits(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, (3, 64)).astype(np.uint8)
    dense = packed(values, bits)
    for row, line in zip(dense, values, strict=True):
        whole = int.from_bytes(row.tobytes(), "little")
        assert [whole >> (bits * j) & ((1 << bits) - 1) for j in range(64)] == line.tolist()
    assert np.array_equal(unpacked(dense, bits, 64), values)


@pytest.mark.parametrize("held", [one for one in SCHEMES if one.group == 32], ids=lambda one: one.name)
def test_dequantize_is_the_number_rounded_to_f32(held: Affine) -> None:
    codes = make(held, 3)
    wanted = np.array([float(value) for value in exact(codes, held)], np.float32).reshape(2, 256)
    found = held.dequantize(codes)
    if held.biased:
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-7)
    else:
        assert np.array_equal(found, wanted)
