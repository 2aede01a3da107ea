"""Weighted moments against the divergence that they foretell; clusters of a table of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from needs import needs
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import Constant, to_numpy
from slmops.ops.numpy import Reference
from slmops.passes import _fisher, mix
from slmops.passes._moments import load as moments_of
from slmops.passes.calibrate import Calibration
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

pytestmark = needs("torch")
Toy = Callable[..., Path]
LETTERS = "".join(np.random.default_rng(1).choice(list("abcdefghijklmnopqrstuvwxyz .,"), 4000))


def log_p(model: Model, windows: list[list[int]]) -> np.ndarray:
    logits = np.concatenate([Reference(model).logits(part) for part in windows]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@pytest.mark.slow
def test_half_of_d_h_d_is_the_divergence(toy: Toy, tmp_path: Path) -> None:
    """Of a matrix moved a little at random. In the last layer, behind which no position sees another, the sum is exact but
    for the draw of labels; the kinds of rows change nothing in the mean."""
    model = load(toy("qwen3", tie_word_embeddings=False))
    found = Calibration(model, LETTERS, tmp_path / "moments", tokens=512, weighted=True)
    ids = model.tokenizer.encoder.encode(LETTERS, add_special_tokens=False).ids[:512]
    windows = [ids[:256], ids[256:]]
    truth, random = log_p(model, windows), np.random.default_rng(0)
    for role in ("layers.2.mlp.up", "layers.2.mlp.down", "layers.2.attention.output", "head"):
        values, held = to_numpy(model.tensors[role]), found.moments[role]
        moments = np.load(held.path)
        predicted, real = [], []
        for _ in range(5):
            moved = (random.standard_normal(values.shape) * 0.02 * values.std()).astype(np.float32)
            other = dataclasses.replace(model, tensors={**model.tensors, role: Constant(values + moved)})
            real.append(float((np.exp(truth) * (truth - log_p(other, windows))).sum(axis=1).mean()))
            predicted.append(0.5 * float(np.einsum("ri,rij,rj->", moved, moments[held.kinds], moved)))
        assert 0.8 < np.mean(predicted) / np.mean(real) < 1.25, role


@pytest.mark.slow
def test_both_roles_of_a_tied_table(toy: Toy, tmp_path: Path) -> None:
    """As the head it has what an untied head has, and as what is looked up more, for the tokens that the text has."""
    tied = load(toy("qwen3", tie_word_embeddings=True))
    apart = dataclasses.replace(tied, tensors={**tied.tensors, "head": tied.tensors["embedding"]},
                                spec=dataclasses.replace(tied.spec, tied=False))  # fmt: skip
    one = Calibration(tied, LETTERS, tmp_path / "one", tokens=256, weighted=True).moments
    two = Calibration(apart, LETTERS, tmp_path / "two", tokens=256, weighted=True).moments
    assert np.array_equal(one["embedding"].kinds, two["head"].kinds)
    for kind in range(4):
        whole, head, table = (moments_of(held.path, kind) for held in (one["embedding"], two["head"], two["embedding"]))
        assert np.allclose(whole, head + table, rtol=1e-3, atol=1e-5 * np.abs(whole).max())


def test_rows_of_one_direction_are_one_kind(toy: Toy) -> None:
    model, random = load(toy("qwen3")), np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((128, 128)))[0][: _fisher.CLUSTERS]
    place = random.integers(0, _fisher.CLUSTERS, 320)
    rows = (axes[place] * random.uniform(0.5, 2, (320, 1)) + random.standard_normal((320, 128)) * 1e-3).astype(np.float32)
    model = dataclasses.replace(model, tensors={**model.tensors, "head": Constant(rows)})
    kinds = _fisher.clusters(model, "head")
    for kind in np.unique(kinds):
        assert len(np.unique(place[kinds == kind])) <= 2
    assert len(np.unique(kinds)) > _fisher.CLUSTERS // 2


@pytest.mark.parametrize(("rows", "columns", "expected"), [(4096, 1024, 4), (4096, 2048, 2), (1024, 14336, 1), (6, 64, 3)])
def test_wide_matrices_have_fewer_kinds_of_rows(rows: int, columns: int, expected: int) -> None:
    assert _fisher.runs(rows, columns) == expected


@pytest.mark.slow
def test_sensitivities_foretell_the_divergence_of_codes(toy: Toy, tmp_path: Path) -> None:
    """Of each matrix that was rounded alone, in the last layer, where the sum is exact but for the draw of labels."""
    model = load(toy("qwen3", tie_word_embeddings=False))
    found = Calibration(model, LETTERS, tmp_path / "moments", tokens=512, weighted=True)
    packed = quantize(model, chooser("q4"))
    nats = mix.sensitivities(packed, model, found.moments)
    assert set(nats) == {role for role, tensor in packed.tensors.items() if isinstance(tensor, Packed)}
    ids = model.tokenizer.encoder.encode(LETTERS, add_special_tokens=False).ids[:512]
    windows = [ids[:256], ids[256:]]
    truth = log_p(model, windows)
    for role in ("layers.2.mlp.up", "layers.2.mlp.down", "layers.2.attention.output", "head"):
        other = dataclasses.replace(model, tensors={**model.tensors, role: packed.tensors[role]})
        real = float((np.exp(truth) * (truth - log_p(other, windows))).sum(axis=1).mean())
        assert 0.7 < nats[role] / real < 1.4, role
