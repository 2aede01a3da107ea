"""GPTQ and AWQ checkpoints: any words at all, decoded by ONNX Runtime GenAI's own loaders and by ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from slmops import compile as compiler
from slmops import load
from slmops.core import plugins
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.core.scheme import Packed
from slmops.core.tensor import to_numpy
from slmops.quantize._affine import unpacked

pytestmark = pytest.mark.slow


def write(
    folder: Path, toy: Path, method: str, *, bits: int = 4, group: int = 32, order: bool = False, **said: Any
) -> dict[str, Any]:
    """The toy with every layer's matrices as random words of the method; returns the arrays."""
    source = load(toy)
    config = json.loads((toy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": bits, "group_size": group, **said}
    config["torch_dtype"] = "float16"
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    names = plugins.load("architectures", source.spec.family).names(source.spec)
    for role, tensor in source.tensors.items():
        if len(tensor.shape) != 2 or role in ("embedding", "head"):
            arrays[names[role]] = to_numpy(tensor).astype(np.float16)
            continue
        (rows, inputs), module = tensor.shape, names[role].removesuffix(".weight")
        words = (inputs * bits // 32, rows) if method == "gptq" else (inputs, rows * bits // 32)
        groups = inputs // (inputs if group == -1 else group)
        arrays[f"{module}.qweight"] = rng.integers(-(2**31), 2**31, words).astype(np.int32)
        arrays[f"{module}.qzeros"] = rng.integers(-(2**31), 2**31, (groups, rows * bits // 32)).astype(np.int32)
        arrays[f"{module}.scales"] = (rng.random((groups, rows)) * 0.01 + 0.001).astype(np.float16)
        if method == "gptq":
            index = np.arange(inputs) // (inputs // groups)
            arrays[f"{module}.g_idx"] = (rng.permutation(index) if order else index).astype(np.int32)
    folder.mkdir()
    for file in toy.iterdir():
        if not file.name.endswith(".safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return arrays


class Module:
    """What their loaders work on."""

    def __init__(self, arrays: dict[str, Any], name: str, bits: int, group: int, awq: bool) -> None:
        import torch

        self.qweight, self.qzeros, self.scales = (
            torch.from_numpy(arrays[f"{name}.{part}"]) for part in ("qweight", "qzeros", "scales")
        )
        self.bits, self.g_idx = bits, None
        self.in_features = self.qweight.shape[0] * (1 if awq else 32 // bits)
        self.out_features = self.scales.shape[1]
        self.group_size = self.in_features if group == -1 else group


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(
    ("method", "bits", "group", "version"),
    [("gptq", 4, 32, "gptq"), ("gptq", 4, 64, "gptq_v2"), ("gptq", 8, 32, "gptq"), ("gptq", 2, 32, "gptq_v2"),
     ("gptq", 4, -1, "gptq"), ("awq", 4, 32, "gemm"), ("awq", 4, 64, "gemm")],
)  # fmt: skip
def test_codes_and_zero_points_are_those_that_onnxruntime_genai_finds(
    family: str, method: str, bits: int, group: int, version: str, toy: Any, tmp_path: Path
) -> None:
    awq_loader, gptq_loader = (pytest.importorskip(f"onnxruntime_genai.models.loaders.{one}") for one in ("awq", "gptq"))
    key = "checkpoint_format" if method == "gptq" else "version"
    arrays = write(tmp_path / "q", toy(family), method, bits=bits, group=group, **{key: version})
    loader = object.__new__(gptq_loader.GPTQModel if method == "gptq" else awq_loader.AWQModel)
    model = load(tmp_path / "q")
    names = plugins.load("architectures", family).names(model.spec)
    packed = {role: tensor for role, tensor in model.tensors.items() if isinstance(tensor, Packed)}
    assert len(packed) == 7 * model.spec.layers
    for role, tensor in packed.items():
        module = Module(arrays, names[role].removesuffix(".weight"), bits, group, method == "awq")
        if version == "gptq":
            loader.handle_qzeros(module)
        loader.unpack_qzeros(module)
        loader.unpack_qweight(module)
        found = tensor.block(0, tensor.shape[0])
        assert np.array_equal(unpacked(found.codes, bits, tensor.shape[1]), module.qweight.numpy().T), role
        assert np.array_equal(found.zeros, module.qzeros.numpy().T), role
        assert np.array_equal(found.scales, module.scales.numpy().T.astype(np.float32)), role
        part = tensor.block(3, 13)
        assert np.array_equal(part.codes, found.codes[3:13])
        assert np.array_equal(part.zeros, found.zeros[3:13])


def test_three_bits_are_one_stream(toy: Any, tmp_path: Path) -> None:
    """32 codes in three words, the first in the low bits (GPTQModel, BitPacking of 3 bits)."""
    arrays = write(tmp_path / "q", toy("llama"), "gptq", bits=3, checkpoint_format="gptq_v2")
    tensor = load(tmp_path / "q").tensors["layers.0.mlp.up"]
    assert isinstance(tensor, Packed)
    words = arrays["model.layers.0.mlp.up_proj.qweight"].view(np.uint32)
    codes = unpacked(tensor.block(0, 4).codes, 3, tensor.shape[1])
    for row in range(4):
        stream = sum(int(word) << (32 * place) for place, word in enumerate(words[:, row]))
        assert [stream >> (3 * k) & 7 for k in range(tensor.shape[1])] == codes[row].tolist()


def test_act_order_is_read_and_stays(toy: Any, tmp_path: Path) -> None:
    arrays = write(tmp_path / "q", toy("llama"), "gptq", order=True, desc_act=True, checkpoint_format="gptq_v2")
    model = load(tmp_path / "q")
    name, tensor = "model.layers.0.mlp.down_proj", model.tensors["layers.0.mlp.down"]
    module = Module(arrays, name, 4, 32, awq=False)
    loader = object.__new__(pytest.importorskip("onnxruntime_genai.models.loaders.gptq").GPTQModel)
    loader.unpack_qzeros(module)
    loader.unpack_qweight(module)
    index = arrays[f"{name}.g_idx"]
    scales, zeros = module.scales.numpy().astype(np.float32)[index], module.qzeros.numpy()[index]
    assert np.array_equal(to_numpy(tensor), ((module.qweight.numpy() - zeros) * scales).T)
    with pytest.raises(Unsupported, match="actorder") as caught:
        compiler.convert(model, ["gguf"], compiler.KEEP, tmp_path / "out")
    assert "--requantize" in caught.value.cure
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("form", ["gguf", "onnx", "openvino", "mlx", "compressed_tensors"])
def test_integer_zero_points_go_everywhere_exactly(method: str, form: str, toy: Any, tmp_path: Path) -> None:
    write(tmp_path / "q", toy("llama"), method, group=32, checkpoint_format="gptq")
    model = load(tmp_path / "q")
    (made,) = compiler.convert(model, [form], compiler.KEEP, tmp_path / "out", verify=False)
    again = load(made.folder)
    for role, tensor in model.tensors.items():
        wanted, found = to_numpy(tensor), to_numpy(again.tensors[role])
        close = 2e-7 * np.abs(wanted).max() if form == "mlx" else 0  # scale * code + bias rounds once more
        assert np.abs(wanted - found).max() <= close, role


@pytest.mark.parametrize(
    "said",
    [{"bits": 5}, {"bits": "four"}, {"group_size": 0}, {"group_size": "all"}, {"checkpoint_format": "marlin"},
     {"dynamic": {"x": {}}}, {"group_size": 10**30}, {"bits": None}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(said: dict[str, Any], toy: Any, tmp_path: Path) -> None:
    write(tmp_path / "q", toy("llama"), "gptq")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"] |= said
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SlmopsError):
        load(tmp_path / "q")


def test_a_group_that_is_not_there_is_corrupt(toy: Any, tmp_path: Path) -> None:
    arrays = write(tmp_path / "q", toy("llama"), "gptq")
    arrays["model.layers.0.mlp.up_proj.g_idx"][3] = 99
    safetensors.numpy.save_file(arrays, tmp_path / "q" / "model.safetensors")
    with pytest.raises(CorruptInput, match="g_idx"):
        load(tmp_path / "q")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitnet", "compressed-tensors"])
def test_a_folder_that_only_says_so_is_refused(method: str, toy: Any, tmp_path: Path) -> None:
    """Weights that are not packed under a config that says they are: the two do not belong together."""
    folder = tmp_path / "plain"
    shutil.copytree(toy("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    said = {"quant_method": method, "bits": 4, "group_size": 32, "linear_class": "autobitlinear", "config_groups": {}}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    with pytest.raises(CorruptInput, match="no tensor of plain is packed"):
        load(folder)
