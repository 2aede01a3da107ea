"""Fewer layers: those that are missed least as measured; each that stays does what it did, by transformers' own word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from judges import transformers_logits, written
from slmops import compile as compiler
from slmops.core import plugins
from slmops.core.errors import Unsupported, UsageError
from slmops.core.model import Model
from slmops.core.tensor import to_numpy
from slmops.ops.numpy import Reference
from slmops.passes import prune_depth
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

Toy = Callable[..., Path]
SLIDING = {"sliding_window": 16, "use_sliding_window": True}
CASES: list[tuple[str, dict[str, Any], set[int]]] = [
    *((name, {}, {1}) for name in plugins.names("architectures")),
    ("gemma3_text", {}, {5}),  # the only layer without a window
    ("gemma3_text", {"layer_types": ["full_attention", *["sliding_attention"] * 5, "full_attention"]}, {0, 3}),
    ("smollm3", {}, {3}),  # the only one that does not rotate
    ("smollm3", {"no_rope_layers": None}, {0}),
    ("qwen2", {**SLIDING, "num_hidden_layers": 4, "max_window_layers": 2}, {0}),
    ("qwen3", {**SLIDING, "num_hidden_layers": 4, "max_window_layers": 2}, {0, 1}),
    ("mistral", {"sliding_window": 16}, {2}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "changes", "gone"), CASES, ids=lambda one: str(one)[:30])
def test_layers_keep_their_own_behaviour(
    toy: Toy, tmp_path: Path, family: str, changes: dict[str, Any], gone: set[int]
) -> None:
    """In transformers, by the config.json that was written: its windows are shorter than the text."""
    source = load(toy(family, **changes))
    model = prune_depth.prune_depth(source, gone)
    kept = [layer for layer in range(source.spec.layers) if layer not in gone]
    assert model.spec.layers == len(kept)
    assert [model.spec.window(at) for at in range(len(kept))] == [source.spec.window(layer) for layer in kept]
    assert [model.spec.rotation(at) for at in range(len(kept))] == [source.spec.rotation(layer) for layer in kept]
    assert (to_numpy(model.tensors[f"layers.{len(kept) - 1}.mlp.down"])
            == to_numpy(source.tensors[f"layers.{kept[-1]}.mlp.down"])).all()  # fmt: skip
    ids = np.random.default_rng(2).integers(0, model.spec.vocab, 120).tolist()
    ours, theirs = Reference(model).logits(ids), transformers_logits(written(model, tmp_path / "out"), ids)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    assert load(tmp_path / "out").spec == model.spec


def faint(folder: Path, source: Path, factors: dict[int, float]) -> Model:
    """A copy in which a layer adds only so much of what it would."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for layer, factor in factors.items():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.{layer}.{name}.weight"] *= factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load(folder)


@pytest.mark.slow
def test_what_is_missed_least_goes_first(toy: Toy, tmp_path: Path) -> None:
    """A layer that adds nothing costs nothing; what the next costs is the divergence computed by hand, in f64."""
    model = faint(tmp_path / "source", toy("qwen3", num_hidden_layers=4), {2: 0.0, 3: 0.1})
    windows = np.random.default_rng(0).integers(0, model.spec.vocab, (3, 40))
    first, second = prune_depth.choose(model, windows, 2)
    assert first == (2, pytest.approx(0, abs=1e-6)) and second[0] == 3
    short = prune_depth.prune_depth(model, [2, 3])
    total = 0.0
    for window in windows:
        p, q = (Reference(one).logits(window.tolist()).astype(np.float64) for one in (model, short))
        p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
        total += float((np.exp(p) * (p - q)).sum())
    assert second[1] == pytest.approx(total / windows.size, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_beginning_in_the_middle_changes_nothing(toy: Toy, family: str) -> None:
    """The first layer dropped is that of the least divergence among whole passes of the models without one each."""
    model = load(toy(family))
    windows = np.random.default_rng(3).integers(0, model.spec.vocab, (2, 80))
    truth = prune_depth._Truth(model, windows)
    whole = {
        layer: truth.divergence(prune_depth._prune.Body(prune_depth.prune_depth(model, [layer])), None)
        for layer in range(model.spec.layers)
    }
    ((layer, found),) = prune_depth.choose(model, windows, 1)
    assert layer == min(whole, key=lambda one: whole[one]) and found == pytest.approx(whole[layer], rel=1e-3, abs=1e-6)


def test_what_an_engine_cannot_say_is_refused_by_name(toy: Toy) -> None:
    """llama.cpp and mlx-lm know which layers slide or do not rotate by their numbers alone."""
    smol, gemma = (load(toy(family)) for family in ("smollm3", "gemma3_text"))
    with pytest.raises(Unsupported, match="rotation by such a pattern"):
        compiler.plan(prune_depth.prune_depth(smol, [0]), ["gguf"])
    with pytest.raises(Unsupported, match="rotation bases of layers by such a pattern"):
        compiler.plan(prune_depth.prune_depth(gemma, [0]), ["gguf"])
    with pytest.raises(Unsupported, match="no sliding window of this kind"):
        compiler.plan(prune_depth.prune_depth(gemma, [0]), ["mlx"])
    for layers in ([6], [5, 6]):  # five that slide and one that does not; five that slide
        compiler.plan(prune_depth.prune_depth(gemma, layers), ["gguf", "mlx"])
    compiler.plan(prune_depth.prune_depth(smol, [4]), ["gguf"])


def test_what_makes_no_sense(toy: Toy) -> None:
    model, windows = load(toy("qwen3")), np.zeros((1, 4), np.int64)
    for layers in ([], [3], [-1], [0, 1, 2]):
        with pytest.raises(UsageError):
            prune_depth.prune_depth(model, layers)
    for count in (0, 3, -1):
        with pytest.raises(UsageError, match="cannot be dropped"):
            prune_depth.choose(model, windows, count)
    with pytest.raises(Unsupported, match="quantized already"):
        prune_depth.prune_depth(quantize(model, chooser("q4")), [0])


@pytest.mark.slow
def test_llama_cpp_computes_what_is_left(toy: Toy, tmp_path: Path) -> None:
    """A gemma whose window nothing reaches rotates its layers by two bases all the same."""
    short = prune_depth.prune_depth(load(toy("gemma3_text", sliding_window=512)), [6])
    for name, model in (("gemma", short), ("llama", prune_depth.prune_depth(load(toy("llama")), [1]))):
        (made,) = compiler.convert(model, ["gguf"], "q8", tmp_path / name)
        assert made.failure is None, made.failure
        assert "llamacpp" in made.receipt["verification"]["engines"]
