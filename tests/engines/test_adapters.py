"""PEFT's file beside the matrices of an engine's model (engines/_adapters.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from needs import needs
from slmops import stream
from slmops.core import plugins
from slmops.core.errors import CorruptInput, EngineFailed
from slmops.core.model import Model
from slmops.core.tensor import Lazy, to_numpy
from slmops.engines import Options, Sampling
from slmops.formats import huggingface
from slmops.ops.numpy import Reference
from slmops.passes.quantize import chooser, quantize

ENGINES = [
    pytest.param("mlx", "mlx", marks=needs("mlx_lm")),
    pytest.param("transformers", "compressed_tensors", marks=needs("torch", "transformers", "compressed_tensors")),
]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize(("engine", "form"), ENGINES)]

Toy = Callable[..., Path]
IDS = np.random.default_rng(0).integers(0, 300, 20).tolist()
PREFIX = "base_model.model.model.layers.0"


@pytest.fixture
def made(toy: Toy, form: str, tmp_path: Path) -> Model:
    """Codes, written to the folder."""
    model = quantize(huggingface.read(toy("qwen3")), chooser("q4"))
    stream.write(model, {form: plugins.load("formats", form).plan(model)}, {form: tmp_path})
    return model


def test_beside_codes(made: Model, engine: str, tmp_path: Path) -> None:
    """Through it the model is the one whose matrix has the product added; without, itself."""
    role, rng = "layers.0.attention.query", np.random.default_rng(1)
    rows, columns = made.tensors[role].shape
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((4, columns), (rows, 4)))
    file = tmp_path / "adapter.safetensors"
    save_file({f"{PREFIX}.self_attn.q_proj.lora_{name}.weight": one for name, one in (("A", a), ("B", b))}, file)
    changed = to_numpy(made.tensors[role]) + b @ a
    other = Lazy(changed.shape, changed.dtype, lambda start, stop: changed[start:stop])
    expected: dict[int | None, list[int]] = {}
    for which, model in ((None, made), (0, dataclasses.replace(made, tensors={**made.tensors, role: other}))):
        ids = list(IDS)
        for _ in range(4):
            ids.append(int(Reference(model).logits(ids)[-1].argmax()))
        expected[which] = ids[len(IDS) :]
    assert expected[None] != expected[0]
    session = plugins.load("engines", engine).open(tmp_path, Options(proof=True, device="cpu", adapters=(str(file),)))
    for which in (None, 0, None):
        assert list(session.generate(IDS, Sampling(max_tokens=4, adapter=which))) == expected[which]
    session.close()


@pytest.mark.parametrize(
    ("matrix", "both", "fault", "said"),
    [
        ("self_attn.nope", "AB", EngineFailed, "no matrix model.layers.0.self_attn.nope for an adapter"),
        ("self_attn.q_norm", "AB", EngineFailed, "no matrix model.layers.0.self_attn.q_norm for an adapter"),
        ("self_attn.q_proj", "A", CorruptInput, "cannot be read"),
    ],
)
def test_what_cannot_be(
    made: Model, engine: str, tmp_path: Path, matrix: str, both: str, fault: type[Exception], said: str
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file({f"{PREFIX}.{matrix}.lora_{one}.weight": np.zeros((2, 2), np.float32) for one in both}, file)
    with pytest.raises(fault, match=said):
        plugins.load("engines", engine).open(tmp_path, Options(device="cpu", adapters=(str(file),)))
