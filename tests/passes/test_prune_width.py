"""Narrower MLPs: the channels that add least go, and what is left is what transformers makes of the written folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from judges import transformers_logits, written
from slmops import compile as compiler
from slmops.core import plugins, roles
from slmops.core.errors import Unsupported, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Constant, to_numpy
from slmops.ops.numpy import Reference
from slmops.passes import prune_width
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

Toy = Callable[..., Path]
WINDOWS = np.random.default_rng(0).integers(0, 300, (2, 50))


def test_widths() -> None:
    for intermediate, fraction, kept in (
        (3072, 0.75, 2304), (8960, 0.5, 4608), (768, 0.9, 704), (256, 0.75, 192), (256, 0.9, 224), (1024, 0.1, 96),
    ):  # fmt: skip
        assert prune_width.width(intermediate, fraction) == kept
    for intermediate, fraction in ((256, 1.0), (256, 0.0), (256, -1.0), (64, 0.01), (32, 0.5), (256, float("nan"))):
        with pytest.raises(UsageError):
            prune_width.width(intermediate, fraction)


@pytest.mark.slow
@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_the_written_folder_is_what_was_computed(toy: Toy, tmp_path: Path, family: str) -> None:
    source = load(toy(family))
    scores = prune_width.importance(source, WINDOWS)
    model = prune_width.prune_width(source, scores, source.spec.intermediate * 3 // 4)
    ids = np.random.default_rng(2).integers(0, model.spec.vocab, 60).tolist()
    ours, theirs = Reference(model).logits(ids), transformers_logits(written(model, tmp_path / "out"), ids)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    assert load(tmp_path / "out").spec.intermediate == model.spec.intermediate == source.spec.intermediate * 3 // 4


def silenced(model: Model, dead: np.ndarray) -> Model:
    """The same with channels whose outgoing weights are zero."""
    tensors = dict(model.tensors)
    for role in tensors:
        if roles.kind(role) == "mlp.down":
            values = to_numpy(tensors[role])
            values[:, dead] = 0
            tensors[role] = Constant(values)
    return dataclasses.replace(model, tensors=tensors)


@pytest.mark.parametrize("family", ["qwen3", "phi3", "llama"])
def test_what_adds_nothing_goes_first(toy: Toy, family: str) -> None:
    """Gate and up lose the same channels as down, in one matrix or two, with biases or without: the logits stay."""
    changes = {"mlp_bias": True} if family == "llama" else {}
    dead = np.random.default_rng(5).permutation(256)[:64]
    model = silenced(load(toy(family, **changes)), dead)
    thin = prune_width.prune_width(model, prune_width.importance(model, WINDOWS), 192)
    alive = np.setdiff1d(np.arange(256), dead)
    assert (to_numpy(thin.tensors["layers.1.mlp.down"]) == to_numpy(model.tensors["layers.1.mlp.down"])[:, alive]).all()
    ids = WINDOWS[0].tolist()
    ours, truth = Reference(thin).logits(ids), Reference(model).logits(ids)
    assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()


def test_importance_by_hand(toy: Toy) -> None:
    """Of the last layer: the mean square of what a channel adds to what the layer gives, summed over the hidden size."""
    model = load(toy("qwen3", num_hidden_layers=1))
    found = prune_width.importance(model, WINDOWS)[0]

    class Inputs(prune_width._prune.Body):
        def linear(self, x: np.ndarray, weight: str, bias: str | None = None) -> np.ndarray:
            if weight.endswith("mlp.down"):
                self.seen = x
            return super().linear(x, weight, bias)

    body = Inputs(model)
    body.run(WINDOWS)
    down = to_numpy(model.tensors["layers.0.mlp.down"]).astype(np.float64)
    added = body.seen.reshape(-1, 256, 1).astype(np.float64) * down.T[None]
    assert np.allclose(found, np.square(added).sum(-1).mean(0), rtol=1e-4)


def test_what_makes_no_sense(toy: Toy) -> None:
    model = load(toy("qwen3"))
    for kept in (0, 256, 300):
        with pytest.raises(UsageError):
            prune_width.prune_width(model, {}, kept)
    with pytest.raises(Unsupported, match="quantized already"):
        prune_width.importance(quantize(model, chooser("q4")), WINDOWS)


@pytest.mark.slow
def test_llama_cpp_takes_k_quants_of_it(toy: Toy, tmp_path: Path) -> None:
    source = load(toy("qwen3", hidden_size=256, intermediate_size=1024))
    model = prune_width.prune_width(source, prune_width.importance(source, WINDOWS), prune_width.width(1024, 0.75))
    (made,) = compiler.convert(model, ["gguf"], "q4_k", tmp_path / "out")
    assert made.failure is None, made.failure
    assert made.receipt["verification"]["engines"]["llamacpp"]["proof"]["relative_error"] < 1e-4
    assert made.receipt["tensors"]["layers.0.mlp.down"]["stored"] == "q4_k"
