"""ggml's super-blocks: decoded by gguf-py, and held against the codes that llama.cpp's own library makes."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from decoders import GRIDS, grid_bytes
from slmops.core import scheme
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.scheme import Codes
from slmops.core.spec import Rope, Spec
from slmops.passes.quantize import chooser

KINDS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")


def weights(rows: int = 48, columns: int = 1024, seed: int = 0) -> np.ndarray:
    """Like trained ones: heavier tails than a normal distribution's, and columns of different spread."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.standard_normal(columns) * 0.3)
    return (rng.standard_t(5, (rows, columns)) * 0.02 * spread).astype(np.float32)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    pytest.importorskip("xllamacpp")
    found = importlib.util.find_spec("xllamacpp")
    assert found is not None and found.submodule_search_locations
    (file,) = Path(found.submodule_search_locations[0]).glob("xllamacpp*.so")
    opened = ctypes.CDLL(str(file))
    opened.ggml_quantize_chunk.restype = ctypes.c_size_t
    opened.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return opened


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_gguf_py_finds_the_same_numbers(kind: str, dtype: type) -> None:
    held, values = scheme.load(kind), weights().astype(dtype)
    values[5] = 0
    values[7, :256] = values[7, 0]
    codes = held.quantize(values)
    assert codes.codes.nbytes == held.nbytes(values.shape)
    found = held.dequantize(codes)
    assert np.array_equal(found, quants.dequantize(codes.codes, Type[kind.upper()]))
    assert not found[5].any()
    error = np.linalg.norm(found - values.astype(np.float32)) / np.linalg.norm(values.astype(np.float32))
    assert error < {"q2_k": 0.35, "q3_k": 0.2, "q4_k": 0.1, "q5_k": 0.05, "q6_k": 0.03, "iq4_nl": 0.1, "iq4_xs": 0.1}[kind]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_as_good_as_those_of_llama_cpp(kind: str, seed: int, library: ctypes.CDLL) -> None:
    """Squared error of a whole tensor, plain and weighted by magnitude, which llama.cpp's own weights lie between; weighted
    by squares a few large numbers decide."""
    held, values = scheme.load(kind), weights(seed=seed)
    theirs = np.empty(held.nbytes(values.shape), np.uint8)
    library.ggml_quantize_chunk(Type[kind.upper()].value, values.ctypes.data, theirs.ctypes.data, 0, *values.shape, None)
    other = quants.dequantize(theirs.reshape(len(values), -1), Type[kind.upper()])
    ours = held.dequantize(held.quantize(values))
    for weight, slack in ((np.ones_like(values), 1.005), (np.abs(values), 1.005), (values**2, 1.02)):
        assert np.sum(weight * (ours - values) ** 2) <= slack * np.sum(weight * (other - values) ** 2)


@pytest.mark.parametrize("kind", GRIDS)
def test_grids_are_those_of_llama_cpp(kind: str, library: ctypes.CDLL) -> None:
    """Any bytes at all, expanded by llama.cpp's own library."""
    held = scheme.load(kind)
    blocks = grid_bytes(kind, held.nbytes((1, held.group)), 64)
    expected = np.empty((64, held.group), np.float32)
    row = library[f"dequantize_row_{kind}"]
    row.restype, row.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    row(blocks.ctypes.data, expected.ctypes.data, expected.size)
    found = held.dequantize(Codes(blocks, np.empty((64, 0), np.float32)))
    assert np.isfinite(expected).all() and np.array_equal(found, expected)
    assert not held.makes
    with pytest.raises(Unsupported, match="not made"):
        held.quantize(np.zeros((1, 256), np.float32))


@pytest.mark.parametrize("name", [*GRIDS, "tq1_0", "tq2_0"])
def test_what_cannot_be_made_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(Unsupported, match="not made"):
        chooser(name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_by_its_row(kind: str, bad: float) -> None:
    values = weights(8, 512)
    values[3, 300] = bad
    with pytest.raises(CorruptInput, match="row 3"):
        scheme.load(kind).quantize(values)


def spec(layers: int = 16, heads: int = 8, kv_heads: int = 2, tied: bool = True) -> Spec:
    return Spec("llama", 32000, 1024, 2048, layers, heads, kv_heads, 128, 4096, 1e-5, Rope(128, 1e4), tied)


def mix(name: str, kind: str, shape: tuple[int, int] = (1024, 1024), **more: int) -> str:
    """The types that a mix gives a matrix of every layer, one letter each."""
    choose, shown = chooser(name), spec(**more)
    return " ".join(choose(f"layers.{i}.{kind}", shown, shape).name.removesuffix("_k") for i in range(shown.layers))


def test_mixes_are_those_of_llama_quantize() -> None:
    """Read off `llama-quantize --dry-run` of a llama of sixteen layers, and llama-quant.cpp."""
    more = "q6 q6 q4 q4 q6 q4 q4 q6 q4 q4 q6 q4 q4 q6 q6 q6"
    assert mix("q4_k_m", "attention.value") == mix("q4_k_m", "mlp.down") == more
    assert set(mix("q4_k_m", "mlp.up").split()) == {"q4"}
    assert mix("q4_k_s", "attention.value") == " ".join(["q5"] * 4 + ["q4"] * 12)
    assert mix("q4_k_s", "mlp.down") == " ".join(["q5"] * 2 + ["q4"] * 14)
    assert mix("q3_k_m", "attention.value") == " ".join(["q5"] * 2 + ["q4"] * 14)
    assert mix("q3_k_m", "mlp.down") == " ".join(["q5"] + ["q4"] * 15)
    assert set(mix("q3_k_l", "attention.output").split()) == {"q5"}
    assert chooser("q4_k_m")("embedding", spec(), (32000, 1024)).name == "q6_k"
    assert chooser("q4_k_m")("embedding", spec(tied=False), (32000, 1024)).name == "q4_k"
    assert chooser("q4_k_m")("head", spec(tied=False), (32000, 1024)).name == "q6_k"


def test_rows_that_super_blocks_do_not_divide_get_smaller_blocks() -> None:
    assert mix("q4_k_m", "mlp.down", (1024, 2016)).split()[:3] == ["q8_0", "q8_0", "q5_0"]
