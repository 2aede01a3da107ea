"""Schemes against llama.cpp's own quantizer (gguf-py) and against their promises."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slmops.core import scheme
from slmops.core.errors import CorruptInput, Unsupported
from slmops.quantize._affine import Affine, parse

PORTABLE = ["q4", "q8", "q4a"]
NAMED = ["int4-g64-bias-bf16", "int3-g64-bias-f16", "int2-g32-zero-f16", "int6-g128-f16", "int8-g128-zero-f32"]


def held(name: str) -> Affine:
    found = parse(name) or scheme.load(name)
    assert isinstance(found, Affine)
    return found


# Each shape of a kernel is compiled once, which takes a second or two.
COMMON = [*PORTABLE, "q4_0", "q4_1", "q8_0", "w8a8"]
RARE = ["q5_0", "q5_1", *NAMED]
AFFINE = [*COMMON, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)]
NARROW = [*COMMON, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE if not held(name).wide)]


def weights(rows: int = 64, columns: int = 1024, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def error(name: str, values: np.ndarray) -> float:
    chosen = held(name)
    return float(np.square(chosen.dequantize(chosen.quantize(values)) - values).mean())


@pytest.mark.parametrize("name, peer", [("q4", "Q4_0"), ("q8", "Q8_0"), ("q4a", "Q4_1")])
def test_no_worse_than_llama_cpp(name: str, peer: str) -> None:
    """gguf-py's quantizers are llama.cpp's reference ones: same bits, their scale rule. q8's scale has 3 bits less."""
    values = weights()
    kind = gguf.GGMLQuantizationType[peer]
    theirs = float(np.square(gguf.dequantize(gguf.quantize(values, kind), kind) - values).mean())
    assert error(name, values) < theirs * {"q4": 0.95, "q8": 1.02, "q4a": 1.0}[name]


@pytest.mark.parametrize("name", PORTABLE)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_scales_are_exact_in_sixteen_bits(name: str, dtype: type) -> None:
    chosen = held(name)
    for magnitude in (1e-7, 1e-4, 1.0, 1e3):
        codes = chosen.quantize((weights() * magnitude).astype(dtype))
        for sixteen in (np.float16, ml_dtypes.bfloat16):
            assert (codes.scales.astype(sixteen).astype(np.float32) == codes.scales).all()
        if codes.zeros is not None:
            products = codes.scales * codes.zeros
            assert (products.astype(np.float16).astype(np.float32) == products).all()
            assert codes.zeros.max() <= 15


def test_one_scale_a_row() -> None:
    """From the row's greatest magnitude, whose code is 1 or 255; exact in sixteen bits, whichever they are."""
    codes = held("w8a8").quantize(weights())
    assert (codes.scales == codes.scales[:, :1]).all() and codes.scales.shape == (64, 32)
    assert (np.abs(codes.codes.astype(int) - 128).max(axis=1) == 127).all() and codes.codes.min() > 0
    for sixteen in (np.float16, ml_dtypes.bfloat16):
        assert (codes.scales.astype(sixteen).astype(np.float32) == codes.scales).all()
    assert 1 < error("w8a8", weights()) / error("q8", weights()) < 8


@pytest.mark.parametrize("name", AFFINE)
def test_input_dtypes_agree(name: str) -> None:
    """bfloat16 numbers give the same codes whichever dtype carries them."""
    chosen = held(name)
    values = weights().astype(ml_dtypes.bfloat16)
    assert chosen.quantize(values).digest() == chosen.quantize(values.astype(np.float32)).digest()


@pytest.mark.parametrize("name", AFFINE)
def test_quantizing_twice_changes_nothing_much(name: str) -> None:
    """What is on the grid already is (nearly) reproduced: the second error is far below the first."""
    chosen = held(name)
    values = weights()
    once = chosen.dequantize(chosen.quantize(values))
    twice = chosen.dequantize(chosen.quantize(once))
    assert np.square(twice - once).mean() < 0.05 * np.square(once - values).mean()


@pytest.mark.parametrize("name", AFFINE)
def test_bytes_are_as_promised(name: str) -> None:
    chosen = held(name)
    codes = chosen.quantize(weights())
    scales = codes.scales.size * chosen.scale.itemsize
    zeros = codes.zeros.size * chosen.bits // 8 if codes.zeros is not None else 0
    assert chosen.nbytes((64, 1024)) == codes.codes.nbytes + scales + zeros + (scales if codes.biases is not None else 0)
    assert codes.codes.shape == (64, 1024 * chosen.bits // 8) and codes.scales.shape == (64, 1024 // chosen.group)


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_poison_names_its_row(name: str, poison: float) -> None:
    values = weights()
    values[17, 40] = poison
    with pytest.raises(CorruptInput, match="row 17 "):
        held(name).quantize(values)


@pytest.mark.parametrize("name", AFFINE)
def test_zeros_stay_zero(name: str) -> None:
    chosen = held(name)
    assert not chosen.dequantize(chosen.quantize(np.zeros((2, 128), np.float32))).any()


@pytest.mark.parametrize("name", NARROW)
def test_too_large_for_a_sixteen_bit_scale(name: str) -> None:
    with pytest.raises(Unsupported, match="too large"):
        held(name).quantize(np.full((1, 128), 3e8, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PORTABLE),
    values=hnp.arrays(np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)),
)
def test_any_numbers_come_back_near(name: str, values: np.ndarray) -> None:
    """Every number is within one step of its group's scale, as long as the step itself is not below f16's."""
    chosen = held(name)
    back = chosen.dequantize(chosen.quantize(values)).reshape(3, 2, 32)
    groups = values.reshape(3, 2, 32)
    reach = np.maximum(groups.max(-1, keepdims=True), 0) - np.minimum(groups.min(-1, keepdims=True), 0)
    steps = 15 if chosen.bits == 4 else 254
    # Symmetric codes cover twice the largest magnitude; the search may clip, never by more than a quarter of the range.
    bound = (reach * 2 / steps if chosen.zero is not None else reach / steps) * 2 + 2**-20
    assert (np.abs(back - groups) <= bound).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("name", "codes"), [("q4", 8), ("q8", 127)])
def test_groups_so_small_that_scales_are_coarse_are_not_clipped(name: str, codes: int, sign: int) -> None:
    """f16's steps are 2^-24 down there. The least scale that reaches the peak is at most one above the ideal, and no value
    is farther than half of it from a code; rounded to the nearest, 127 codes would lose up to a third."""
    chosen = scheme.load(name)
    for peak in np.geomspace(3e-7, 1e-3, 60).astype(np.float32):
        values = np.full((1, 32), peak * sign, np.float32)
        away = np.abs(chosen.dequantize(chosen.quantize(values)) - values).max()
        assert away <= (peak / codes + 2**-24) / 2, peak
