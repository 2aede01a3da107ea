"""Graphs that others exported: ONNX Runtime GenAI's own builder and optimum-intel's form, lifted code for code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slmops import compile as compiler
from slmops import load
from slmops.core.errors import Unsupported
from slmops.core.scheme import Packed
from slmops.core.tensor import to_numpy
from slmops.formats import huggingface

pytestmark = pytest.mark.slow
Toy = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Path]:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime_genai.models.builder")

    def run(folder: Path, precision: str) -> Path:
        out = tmp_path_factory.mktemp("built")
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(out)]
        command += ["-p", precision, "-e", "cpu", "-c", str(out / "cache"), "--extra_options", "int4_block_size=32"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return out

    return run


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_the_builders_folders_are_lifted(
    family: str, precision: str, toy: Toy, build: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    scaling = {"rope_scaling": None} if family == "llama" else {}
    source = huggingface.read(toy(family, **scaling))
    built = build(toy(family, **scaling), precision)
    model = load(built)
    assert (model.spec.rope, model.spec.heads, model.spec.norm_eps) == (
        source.spec.rope,
        source.spec.heads,
        source.spec.norm_eps,
    )
    for role, tensor in model.tensors.items():
        wanted = to_numpy(source.tensors["embedding" if role == "head" and role not in source.tensors else role])
        away = np.abs(to_numpy(tensor) - wanted).max()
        assert away <= (0.05 if isinstance(tensor, Packed) else 1e-6), role
        assert not isinstance(tensor, Packed) or precision == "int4"
    try:
        (made,) = compiler.convert(model, ["gguf"], compiler.KEEP, tmp_path / "gguf")
    except Unsupported as refusal:  # scales in f32 that f16 does not hold
        assert "--requantize" in refusal.cure
        (made,) = compiler.convert(model, ["mlx"], compiler.KEEP, tmp_path / "mlx")
    again = load(made.folder)
    for role, tensor in model.tensors.items():
        assert np.abs(to_numpy(again.tensors[role]) - to_numpy(tensor)).max() < 1e-6, role
