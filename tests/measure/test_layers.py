"""Bits and errors of matrices, beside numbers worked out another way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops import compile as compiler
from slmops import source
from slmops.core.tensor import to_numpy
from slmops.measure import layers

Toy = Callable[..., Path]


@pytest.mark.parametrize(("form", "scheme", "bits"), [("gguf", "q4", 4.5), ("gguf", "q6_k", 6.5625), ("onnx", "q8", 8.5)])
def test_bits_and_errors(toy: Toy, tmp_path: Path, form: str, scheme: str, bits: float) -> None:
    """The bits are the published sizes of a block: 18 bytes for 32 weights, 210 for 256, 34 for 32."""
    model = source.load(toy("qwen3", hidden_size=256, intermediate_size=256, head_dim=64))
    compiler.convert(model, [form], scheme, tmp_path / "made", verify=False)
    found = layers.held(tmp_path / "made", model)
    again = source.load(tmp_path / "made")
    assert [one.role for one in found if one.role.startswith("layers.0.")] == [
        f"layers.0.{name}" for name in ("attention.query", "attention.key", "attention.value", "attention.output",
                                        "mlp.gate", "mlp.up", "mlp.down")
    ]  # fmt: skip
    for one in found:
        assert one.bits == bits and one.shape == model.tensors[one.role].shape
        true, held = to_numpy(model.tensors[one.role]), to_numpy(again.tensors[one.role])
        assert one.error == pytest.approx(np.linalg.norm(held - true) / np.linalg.norm(true), rel=1e-4)
        assert one.error is not None and 0 < one.error < {"q4": 0.12, "q6_k": 0.03, "q8": 0.01}[scheme]
    assert all(one.error is None for one in layers.held(tmp_path / "made"))


@pytest.mark.parametrize("shape", [(3, 5), (1024, 1024), (1025, 1024), (151_936, 1024), (7, 1 << 20), (10_000, 300)])
@pytest.mark.parametrize("multiple", [1, 64, 96])
def test_the_sample_is_bounded_aligned_and_spread(shape: tuple[int, int], multiple: int) -> None:
    cut = list(layers._slices(shape, multiple))
    assert all(0 <= start < stop <= shape[0] and start % multiple == 0 for start, stop in cut)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(cut))
    taken = sum(stop - start for start, stop in cut) * shape[1]
    assert taken <= max(layers.SAMPLE, layers.SLICES * multiple * shape[1])
    if shape[0] > 100 * multiple:
        assert cut[-1][1] > 0.99 * shape[0] and taken > 0.5 * min(layers.SAMPLE, shape[0] * shape[1])
