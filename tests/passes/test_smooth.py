"""Channels evened out: the same function, and activations that bear one step for all (passes/smooth.py, activations.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops.core import plugins, roles
from slmops.core.errors import CorruptInput
from slmops.core.model import Model, Weights
from slmops.core.tensor import DTYPES, Array, Floats, Lazy, to_numpy
from slmops.formats import huggingface
from slmops.ops.numpy import NumpyOps, Reference
from slmops.passes import activations, smooth

Toy = Callable[..., Path]
WINDOWS = np.random.default_rng(0).integers(3, 300, (4, 64))
IDS = np.random.default_rng(1).integers(3, 300, 96).tolist()


def relative(actual: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def held(array: Array) -> Lazy:
    numbers = np.asarray(array, np.float32)
    return Lazy(numbers.shape, DTYPES["f32"], lambda start, stop: numbers[start:stop])


class Rounded(NumpyOps):
    """Every input rounded as FakeQuantize is specified to round it."""

    steps: dict[str, float]

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        if weight in self.steps:
            step = np.float32(self.steps[weight])
            x = np.asarray(np.clip(np.rint(x / step), -128, 127) * step, np.float32)
        return super().linear(x, weight, bias)


def rounded(model: Model, steps: dict[str, float]) -> Floats:
    ops = Rounded(model.tensors)
    ops.steps = steps
    program = plugins.load("architectures", model.spec.family)
    return np.asarray(program.forward(ops, model.spec, Weights(model.tensors), np.array([IDS]))[0])


@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_the_function_stays_and_matrices_of_layers_alone_change(toy: Toy, family: str) -> None:
    model = huggingface.read(toy(family))
    evened = smooth.smooth(model, WINDOWS)
    assert relative(Reference(evened).logits(IDS), Reference(model).logits(IDS)) < 2e-6
    changed = {role for role, tensor in evened.tensors.items() if tensor is not model.tensors[role]}
    assert changed and all(roles.layer(role) is not None for role in changed)
    downs = {role for role in changed if role.endswith("mlp.down")}
    assert len(downs) == model.spec.layers, "what comes out of a gated MLP can always be evened out"
    for role in changed:
        before, after = to_numpy(model.tensors[role]), to_numpy(evened.tensors[role])
        if not roles.is_norm(role) or not model.spec.norm_offset:
            mantissas = np.frexp(before)[0] == np.frexp(after)[0]
            assert mantissas.all(), f"{role}: powers of two change exponents alone"


def test_what_outliers_cost_is_taken_back(toy: Toy) -> None:
    """A few channels made 100 times as large, and their columns as much smaller: what training does to large models."""
    model = huggingface.read(toy("qwen3"))
    factors = np.ones(model.spec.hidden, np.float32)
    factors[[3, 20]] = 100
    tensors = dict(model.tensors)
    for role, tensor in model.tensors.items():
        kind = roles.kind(role)
        if kind in ("attention.norm", "mlp.norm"):
            tensors[role] = held(to_numpy(tensor) * factors)
        elif kind in ("attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.up"):
            tensors[role] = held(to_numpy(tensor) / factors)
    outlying = dataclasses.replace(model, tensors=tensors)
    expected = Reference(model).logits(IDS)
    assert relative(Reference(outlying).logits(IDS), expected) < 1e-5
    evened = smooth.smooth(outlying, WINDOWS)
    coarse = relative(rounded(outlying, activations.steps(outlying, WINDOWS)), expected)
    fine = relative(rounded(evened, activations.steps(evened, WINDOWS)), expected)
    plain = relative(rounded(model, activations.steps(model, WINDOWS)), expected)
    assert fine < coarse / 4 and fine < 2 * plain, (fine, coarse, plain)


def test_what_goes_elsewhere_too_stays(toy: Toy) -> None:
    """OLMo 2 has its norms behind: what attention reads is the residual stream itself."""
    model = huggingface.read(toy("olmo2"))
    evened = smooth.smooth(model, WINDOWS)
    assert evened.tensors["layers.0.attention.query"] is model.tensors["layers.0.attention.query"]


@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_the_step_is_the_one_of_least_squared_error(spread: float) -> None:
    """Tried out on the numbers themselves, in double precision; a histogram of 2,048 bins tells nearly as much."""
    x = np.random.default_rng(2).lognormal(0, spread, 100_000) * np.random.default_rng(3).choice([-1, 1], 100_000)
    seen = activations.Magnitudes()
    for part in np.split(x.astype(np.float32), 10):
        seen.add(part)
    assert seen.counts.sum() == x.size and seen.top == np.abs(x.astype(np.float32)).max()

    def error(step: float) -> float:
        return float(np.square(np.clip(np.rint(x / step), -127, 127) * step - x).sum())

    best = min(error(step) for step in np.linspace(0.02, 1, 200) * np.abs(x).max() / 127)
    assert error(activations.best(seen)) < 1.03 * best


def test_query_key_and_value_have_one_step_and_the_head_its_own(toy: Toy) -> None:
    model = huggingface.read(toy("llama", tie_word_embeddings=False))
    steps = activations.steps(model, WINDOWS)
    assert set(steps) == {role for role in model.tensors if roles.facts(role).quantize} - {"embedding"}
    assert len({steps[f"layers.0.attention.{name}"] for name in ("query", "key", "value")}) == 1
    assert steps["layers.0.mlp.gate"] == steps["layers.0.mlp.up"] != steps["layers.0.mlp.down"]
    assert all(np.float32(step) == step > 0 for step in steps.values())


def test_numbers_that_are_none_are_named(toy: Toy) -> None:
    model = huggingface.read(toy("llama"))
    norm = to_numpy(model.tensors["layers.1.mlp.norm"])
    broken = dataclasses.replace(model, tensors={**model.tensors, "layers.1.mlp.norm": held(np.full(norm.shape, np.inf))})
    with np.errstate(all="ignore"), pytest.raises(CorruptInput, match=r"layers\.1\.mlp\.gate is not finite"):
        activations.steps(broken, WINDOWS)
