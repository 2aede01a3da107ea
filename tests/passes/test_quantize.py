"""What each matrix is stored as (passes/quantize.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slmops.core.scheme import Packed
from slmops.core.tensor import to_numpy
from slmops.formats import huggingface
from slmops.passes.quantize import chooser, packed, quantize

Toy = Callable[..., Path]


@pytest.mark.parametrize("scheme", ["q8", "int4-g32-zero-f32", "int4-g32-zero-f16", "q4_k"])
@pytest.mark.parametrize("dense", ["f32", "f16", "bf16"])
def test_codes_become_the_numbers_that_they_stand_for(toy: Toy, scheme: str, dense: str) -> None:
    """Of whatever dtype their scales are."""
    codes = quantize(huggingface.read(toy("llama", hidden_size=256, intermediate_size=256)), chooser(scheme))
    plain = quantize(codes, chooser(dense), again=True)
    assert packed(codes) and not packed(plain)
    role = "layers.0.attention.query"
    held, found = codes.tensors[role], plain.tensors[role]
    assert isinstance(held, Packed) and found.dtype.name in {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dense]
    expected = to_numpy(held)
    assert abs(to_numpy(found) - expected).max() <= {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8}[dense] * abs(expected).max()
