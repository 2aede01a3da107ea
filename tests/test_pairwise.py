"""Any to any in the engines: what each reader gives, written to each format as it is and opened where it will run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from slmops import compile as compiler
from slmops import load
from slmops.core import receipt
from slmops.core.errors import Unsupported

pytestmark = pytest.mark.slow
Toy = Callable[..., Path]
FORMATS = ("gguf", "mlx", "onnx", "openvino", "compressed_tensors", "huggingface")
ROOT = Path(__file__).resolve().parent.parent
COUNTS = {"q6_k": 2, "int3-g64-bias-f16": 3, "int6-g32-bias-bf16": 2, "q5_1": 3, "ternary-f32": 4}
"""Schemes that not every format takes: formats that do."""
SOURCES = {
    "gguf": ("q4_0", "q5_1", "q6_k"),
    "mlx": ("int3-g64-bias-f16", "int6-g32-bias-bf16"),
    "onnx": ("q4a",),
    "openvino": ("q4a",),
    "compressed_tensors": ("int4-g128-zero-f16",),
    "gptq": ("int4-g32-zero-f16",),
    "awq": ("int4-g32-zero-f16",),
    "bitnet": ("ternary-f32",),
}


@pytest.fixture(scope="module")
def seeds() -> Any:
    """bench/fuzzseeds.py, which writes the formats that slmops only reads."""
    spec = importlib.util.spec_from_file_location("fuzzseeds", ROOT / "bench" / "fuzzseeds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzseeds"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("reader", "scheme"), [(reader, scheme) for reader, names in SOURCES.items() for scheme in names])
def test_what_was_read_runs_everywhere(reader: str, scheme: str, seeds: Any, toy: Toy, tmp_path: Path) -> None:
    model = load(seeds.packed(reader, scheme, toy, tmp_path / "made"))
    formats = []
    for form in FORMATS:
        try:
            compiler.plan(model, [form])
            formats.append(form)
        except Unsupported as refusal:
            assert "--requantize" in refusal.cure or reader == "bitnet"
    assert "huggingface" in formats
    assert len(formats) == COUNTS.get(scheme, 6), formats
    for made in compiler.convert(model, formats, compiler.KEEP, tmp_path / "out"):
        assert made.failure is None, made.failure
        verification = json.loads((made.folder / receipt.NAME).read_text())["verification"]
        assert verification["engines"] or made.format == "huggingface", verification["skipped"]


@pytest.mark.parametrize("scheme", ["q4", "q8", "q4a"])
def test_the_ring_ends_where_it_began(scheme: str, toy: Toy, tmp_path: Path) -> None:
    """From GGUF through every other format and back: the very same bytes of every tensor, by gguf-py's reader."""
    ring, at = ("gguf", "onnx", "openvino", "mlx", "compressed_tensors", "gguf"), toy("qwen3")
    ends = []
    for number, form in enumerate(ring):
        (made,) = compiler.convert(
            load(at), [form], compiler.KEEP if number else scheme, tmp_path / str(number), verify=False
        )
        at = made.folder
        if form == "gguf":
            reader = gguf.GGUFReader(next(at.glob("*.gguf")))
            ends.append({one.name: (one.tensor_type, one.shape.tolist(), one.data.tobytes()) for one in reader.tensors})
    first, last = ends
    assert first == last and len(first) > 10
