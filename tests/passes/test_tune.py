"""Tuned scales against finite differences, and what tuning leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from needs import needs
from slmops import cli
from slmops.core.errors import EngineMissing, UsageError
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import to_numpy
from slmops.ops.numpy import Reference
from slmops.passes import tune
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "turn the kitchen light to thirty percent and set a timer for ten minutes; play some music then. " * 60
pytestmark = [pytest.mark.slow, needs("torch")]


def divergence(model: Model, log_p: np.ndarray, ids: list[int]) -> float:
    """Mean over positions, in f64, by the reference interpreter."""
    return float((np.exp(log_p) * (log_p - predicted(model, ids))).sum(axis=1).mean())


def predicted(model: Model, ids: list[int]) -> np.ndarray:
    return _log_softmax(Reference(model).logits(ids))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize(
    ("family", "scheme", "options"),
    [
        ("qwen3", "q4", {"tie_word_embeddings": True}),
        ("qwen3", "q4_k", {"tie_word_embeddings": False, "hidden_size": 256}),
        ("qwen2", "int4-g64-bias-bf16", {}),  # biases of matrices
        ("gemma3_text", "q4a", {"final_logit_softcapping": 5.0}),
    ],
)
def test_gradients_are_slopes_of_the_divergence(
    toy: Toy, tmp_path: Path, family: str, scheme: str, options: dict[str, object]
) -> None:
    """Of a random direction over all numbers of a role at once, by central differences of the reference's own divergence."""
    source = load(toy(family, **options))
    packed = quantize(source, chooser(scheme))
    windows = Calibration(source, TEXT, tmp_path / "moments", tokens=256).windows
    ids = windows[0].tolist()
    truth = predicted(source, ids)
    tuner = tune._Tuner(packed, source, windows, tmp_path)
    tuner._settle()
    tuner._step(np.arange(len(windows)))
    table = "embedding" if source.spec.tied else "head"
    random, checked = np.random.default_rng(0), 0
    for role in (table, "embedding", "layers.1.attention.query", "layers.2.mlp.down", "layers.1.mlp.norm", "norm"):
        if role in tuner._vectors:
            moving = [tuner._vectors[role]]
        elif role in tuner._matrices:
            moving = [one for _, part in tuner._matrices[role].blocks() for one in part.moving]
        else:
            continue  # groups that do not divide its rows
        directions = [random.standard_normal(one.start.shape).astype(np.float32) for one in moving]
        slope = sum(float((one.gradient * one.start * way).sum()) for one, way in zip(moving, directions, strict=True))
        size, found = 2e-3, []
        for sign in (1, -1):
            for one, way in zip(moving, directions, strict=True):
                one._stored = lambda values, old: values  # differences smaller than what is stored
                one.shift = np.float32(sign * size) * way
            tuner._settle()
            tensors = {**tuner._tensors}
            tensors |= {name: Values(one.values()) for name, one in tuner._vectors.items()}
            found.append(divergence(dataclasses.replace(packed, tensors=tensors), truth, ids))
            for one in moving:
                one.shift = np.zeros_like(one.shift)
        tuner._settle()
        expected = (found[0] - found[1]) / (2 * size)
        assert slope == pytest.approx(expected, rel=0.05, abs=0.02 * abs(found[0])), role
        checked += 1
    assert checked >= 4


class Values:
    """A tensor of these numbers."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]


@pytest.mark.parametrize("scheme", ["q4", "q4a", "q4_k", "iq4_xs", "int4-g64-bias-bf16"])
def test_a_tuned_model_is_nearer_with_the_same_codes(toy: Toy, tmp_path: Path, scheme: str) -> None:
    """On other text too; and what it holds is what its scheme can store."""
    source = load(toy("qwen3", hidden_size=256))
    packed = quantize(source, chooser(scheme))
    ids = np.array(source.tokenizer.encoder.encode(TEXT).ids)
    windows, other = ids[:1024].reshape(-1, 128), ids[1024:1152].tolist()
    said: list[str] = []
    done = tune.tune(packed, source, windows, 3, tmp_path, said.append)
    assert done.after < done.before and len(said) == 3
    truth = predicted(source, other)
    assert divergence(done.model, truth, other) < 0.98 * divergence(packed, truth, other)
    changed = False
    for role, before in packed.tensors.items():
        after = done.model.tensors[role]
        assert after.shape == before.shape and after.dtype == before.dtype
        if isinstance(before, Packed):
            assert isinstance(after, Packed)
            old, new = (one.scheme.grid(one.block(0, one.shape[0])) for one in (before, after))  # type: ignore[attr-defined]
            assert np.array_equal(old.codes, new.codes) and np.array_equal(old.zeros.values, new.zeros.values)
            changed = changed or not np.array_equal(old.steps[0].values, new.steps[0].values)
            part, whole = after.rows(16, 48), to_numpy(after)
            assert np.array_equal(part, whole[16:48])
    assert changed


def test_what_does_not_help_is_not_kept(toy: Toy, tmp_path: Path) -> None:
    """Steps far too wide make everything worse: the state before them stays."""
    source = load(toy("qwen3"))
    packed = quantize(source, chooser("q8"))
    windows = Calibration(source, TEXT, tmp_path / "moments", tokens=512).windows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "RATE", 100.0)
        done = tune.tune(packed, source, windows, 2, tmp_path, lambda _: None)
    assert done.after == done.before
    for role, before in packed.tensors.items():
        assert np.array_equal(to_numpy(before), to_numpy(done.model.tensors[role])), role


def test_as_it_is_typed(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    source, text = str(toy("llama", name="model")), ["--calibrate", str(tmp_path / "text.txt"), "--calibrate-tokens", "1024"]
    common = ["convert", source, "--to", "gguf", "-o", str(tmp_path / "made")]
    assert cli.main([*common, *text, "--tune", "2"]) == 0
    said = capsys.readouterr().out
    assert "scales and norms tuned: KL divergence of held-back windows" in said and "llamacpp" in said
    assert cli.main([*common, *text, "--tune", "2"]) == 0
    assert "already made" in capsys.readouterr().out
    assert cli.main([*common, *text]) != 0  # another step
    assert cli.main([*common, "--tune", "2"]) == 2
    assert "add --calibrate" in capsys.readouterr().err


def test_without_pytorch_it_is_said(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(toy("llama"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineMissing, match="PyTorch"):
        Calibration(model, TEXT, tmp_path, tune=3)
    with pytest.raises(UsageError, match="no count"):
        Calibration(model, TEXT, tmp_path, tune=-1)
