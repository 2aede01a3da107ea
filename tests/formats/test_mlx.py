"""MLX folders: the codes that MLX itself decodes to the scheme's numbers, and a reader that finds them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import same
from slmops import stream
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.core.model import Model
from slmops.core.tensor import DTYPES
from slmops.formats import huggingface, mlx
from slmops.passes.quantize import chooser, quantize

Toy = Callable[..., Path]
GRIDS = [*(f"int{bits}-g64-bias-bf16" for bits in (2, 4, 5, 6, 8)), "int4-g128-zero-f16"]
# Each shape of a kernel is compiled once, which takes a second or two.
PACKED = ["q4", "q8", "q4a", "int3-g64-bias-bf16", *(pytest.param(name, marks=pytest.mark.slow) for name in GRIDS)]


def write(model: Model, folder: Path) -> Path:
    folder.mkdir()
    layout = mlx.plan(model)
    stream.write(model, {"mlx": layout}, {"mlx": folder})
    assert sum(path.stat().st_size for path in folder.iterdir()) == layout.nbytes
    return folder


def mixed(model: Model) -> Model:
    """q4, with q8 embedding and head, and one q4a matrix."""
    four, eight, other = (quantize(model, chooser(name)).tensors for name in ("q4", "q8", "q4a"))
    chosen = {"embedding": eight, "head": eight, "layers.1.mlp.up": other}
    return dataclasses.replace(model, tensors={role: chosen.get(role, four)[role] for role in model.tensors})


@pytest.mark.parametrize("name", [*PACKED, *mlx.DENSE])
@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_reads_back_code_for_code(toy: Toy, tmp_path: Path, family: str, name: str) -> None:
    model = quantize(huggingface.read(toy(family)), chooser(name))
    folder = write(model, tmp_path / "m")
    assert mlx.detect(folder)
    back = mlx.read(folder)
    same(model, back)
    assert back.tokenizer == model.tokenizer and back.chat_template == model.chat_template


@pytest.mark.parametrize("name", PACKED)
def test_mlx_decodes_the_same_numbers(toy: Toy, tmp_path: Path, name: str) -> None:
    mx: Any = pytest.importorskip("mlx.core")
    model = quantize(huggingface.read(toy("qwen3")), chooser(name))
    scheme = model.tensors["layers.0.mlp.down"].scheme  # type: ignore[attr-defined]
    arrays = mx.load(str(write(model, tmp_path / "m") / "model.safetensors"))
    tensor, module = model.tensors["layers.0.mlp.down"], "model.layers.0.mlp.down_proj"
    scales, biases = (arrays[f"{module}.{part}"] for part in ("scales", "biases"))
    assert scales.dtype == biases.dtype == {"q4a": mx.float16, "int4-g128-zero-f16": mx.float32}.get(name, mx.bfloat16)
    decoded = mx.dequantize(
        arrays[f"{module}.weight"],
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=scheme.group,
        bits=scheme.bits,
        stream=mx.cpu,
    )
    assert np.abs(np.array(decoded) - tensor.rows(0, tensor.shape[0])).max() <= (0 if name.startswith("q") else 1e-7)


def test_a_matrix_of_another_scheme_is_named(toy: Toy, tmp_path: Path) -> None:
    model = mixed(huggingface.read(toy("qwen2", intermediate_size=240)))
    folder = write(model, tmp_path / "m")
    config = json.loads((folder / "config.json").read_bytes())["quantization"]
    assert (config["bits"], config["lm_head"]["bits"]) == (4, 8)
    assert config["model.layers.0.mlp.down_proj"] is False, "240 columns make no whole groups"
    same(model, mlx.read(folder))


@pytest.mark.parametrize(
    ("source", "name", "norms", "scales"),
    [
        ("f32", "q4", "f32", "f16"),
        ("f32", "q4a", "f32", "f16"),
        ("f16", "q8", "f16", "f16"),
        ("bf16", "q8", "bf16", "bf16"),
        ("bf16", "q4a", "f16", "f16"),
    ],
)
def test_dtypes_lose_nothing(toy: Toy, source: str, name: str, norms: str, scales: str) -> None:
    model = huggingface.read(toy("qwen3"))
    cast = {role: dataclasses.replace(tensor, dtype=DTYPES[source]) for role, tensor in model.tensors.items()}
    model = quantize(dataclasses.replace(model, tensors=cast), chooser(name))
    layout = mlx.plan(model)
    header = json.loads(layout.literals[0][2][8:])
    short = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
    assert short[header["model.norm.weight"]["dtype"]] == norms
    assert short[header["lm_head.scales" if "lm_head.scales" in header else "model.embed_tokens.scales"]["dtype"]] == scales
    assert bool(layout.notes) == (source == "f32" or name == "q4a")


def test_refuses_what_mlx_lm_would_compute_otherwise(toy: Toy) -> None:
    def spec(family: str, **changes: Any) -> Any:
        return (
            huggingface.read(toy(family)).spec
            if not changes
            else specs.from_config(json.loads((toy(family) / "config.json").read_bytes()) | changes)
        )

    mlx.support(spec("mistral", sliding_window=4096))
    for wrong in (spec("mistral", sliding_window=64), spec("qwen2", head_dim=64), spec("qwen3", attention_bias=True)):
        with pytest.raises(Unsupported):
            mlx.support(wrong)
    with pytest.raises(Unsupported, match="q6_k"):
        mlx.plan(quantize(huggingface.read(toy("qwen3", hidden_size=256)), chooser("q6_k")))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads(path.read_bytes())
    change(config)
    path.write_text(json.dumps(config))


def test_refuses_folders_that_do_not_fit_together(toy: Toy, tmp_path: Path) -> None:
    model = quantize(huggingface.read(toy("qwen3")), chooser("q4"))
    folder = write(model, tmp_path / "m")
    config = (folder / "config.json").read_bytes()

    for change in (
        lambda c: c.update(intermediate_size=224),
        lambda c: c.update(num_hidden_layers=2),
        lambda c: c.update(num_hidden_layers=4),
        lambda c: c.update(tie_word_embeddings=False),
        lambda c: c["quantization"].update(bits=8),
        lambda c: c.update(quantization=[]),
        lambda c: c.update(vocab_size=10**7),
    ):
        edit(folder / "config.json", change)
        with pytest.raises(SlmopsError):
            mlx.read(folder)
        (folder / "config.json").write_bytes(config)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptInput):
        mlx.read(folder)
