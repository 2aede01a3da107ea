"""Mixes: the knapsack against every choice there is, and a budget that is kept on a real model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops import calibrated
from slmops import compile as compiler
from slmops.core.errors import UsageError
from slmops.core.scheme import Packed, stored_as
from slmops.passes import mix
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import quantize
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "turn the kitchen light to thirty percent and set a timer for ten minutes; play some music then. " * 30


def test_the_knapsack_against_all_choices() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        tables = [
            [(int(size), float(cost)) for size, cost in zip(random.integers(1000, 9000, 4), random.random(4), strict=True)]
            for _ in range(5)
        ]
        least = sum(min(size for size, _ in table) for table in tables)
        budget = least * float(random.uniform(1.02, 2.5))
        every = [
            (sum(table[place][1] for table, place in zip(tables, places, strict=True)), places)
            for places in itertools.product(range(4), repeat=5)
            if sum(table[place][0] for table, place in zip(tables, places, strict=True)) <= budget
        ]
        found = mix.knapsack(tables, budget)
        size = sum(table[place][0] for table, place in zip(tables, found, strict=True))
        cost = sum(table[place][1] for table, place in zip(tables, found, strict=True))
        assert size <= budget
        assert cost <= min(every)[0] * 1.01 + 1e-12


@pytest.mark.parametrize(
    "name", ["mixed", "mixed:", "mixed:4.5", "mixed:0.5bpw", "mixed:99bpw", "mixed:-4bpw", "mixed:4e1bpw"]
)
def test_names_that_say_nothing(name: str) -> None:
    with pytest.raises(UsageError, match="bits for each weight"):
        mix.bits(name)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gguf", "mlx", "onnx", "openvino", "compressed_tensors"])
def test_a_budget_is_kept_in_every_format(toy: Toy, tmp_path: Path, form: str) -> None:
    """Within 1 %, by layouts alone; and what costs most has the most bits."""
    pytest.importorskip("torch")
    model = load(toy("qwen3", hidden_size=256))
    moments = Calibration(model, TEXT, tmp_path / "moments", tokens=256, weighted=True).moments
    names = calibrated.mixable([form])
    for bits in (4.75, 6.0, 8.0):
        choose = mix.mix(model, names, bits, moments)
        chosen = quantize(model, choose)
        stored = {role: tensor for role, tensor in chosen.tensors.items() if isinstance(tensor, Packed)}
        taken = 8 * sum(tensor.scheme.nbytes(tensor.shape) for tensor in stored.values()) / mix.weights(model)
        assert 0.97 * bits <= taken <= bits
        assert len({stored_as(tensor) for tensor in stored.values()}) > 1
        planned = compiler.plan(model, [form], f"mixed:{bits}bpw", choose=choose)
        assert planned.nbytes > 0
    with pytest.raises(UsageError, match="the smallest mix takes"):
        mix.mix(model, names, 2.0, moments)
