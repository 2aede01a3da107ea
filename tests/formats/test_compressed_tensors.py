"""compressed-tensors folders: decoded by the library that defines the format, and read back code for code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from checkpoints import same
from slmops import stream
from slmops.core import plugins
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.formats import compressed_tensors as ct
from slmops.formats import huggingface
from slmops.passes.quantize import chooser, quantize

Toy = Callable[..., Path]
RARE = ("int4-g64-f16", "int8-g128-zero-f16")  # each shape of a kernel is compiled once, which takes a second or two
PACKED = ["q4", "q8", "q4a", *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)]


def write(model: Model, folder: Path) -> Path:
    folder.mkdir()
    layout = ct.plan(model)
    stream.write(model, {"ct": layout}, {"ct": folder})
    assert sum(path.stat().st_size for path in folder.iterdir()) == layout.nbytes
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_reads_back_code_for_code(toy: Toy, tmp_path: Path, family: str, name: str) -> None:
    model = quantize(huggingface.read(toy(family)), chooser(name))
    folder = write(model, tmp_path / "m")
    assert ct.detect(folder)
    back = ct.read(folder)
    same(model, back, plain=("embedding",))
    assert isinstance(back.tensors.get("head", back.tensors["layers.0.mlp.up"]), Packed)
    assert isinstance(back.tensors["embedding"], Packed)
    (folder / "embedding.scales").unlink()
    plain = ct.read(folder)
    assert plain.tensors["embedding"].dtype.name == ("float16" if name in ("q4", "q4a") else "float32")
    same(model, plain, plain=("embedding",))


def test_scales_of_other_weights_are_noticed(toy: Toy, tmp_path: Path) -> None:
    model = quantize(huggingface.read(toy("qwen2")), chooser("q4"))
    folder = write(model, tmp_path / "m")
    scales = folder / "embedding.scales"
    found, said = safetensors.numpy.load_file(scales), {"scheme": "q4"}
    safetensors.numpy.save_file({"scales": found["scales"] * np.float16(1.5)}, scales, said)
    with pytest.raises(CorruptInput, match="not of these weights: rows 0 to"):
        ct.read(folder).tensors["embedding"].rows(0, 8)
    safetensors.numpy.save_file({"scales": found["scales"] * np.float16(np.inf)}, scales, said)
    with pytest.raises(CorruptInput, match=r"embedding\.scales: row 0 holds NaN"):
        ct.read(folder).tensors["embedding"].rows(0, 8)
    for arrays, name in (({"scales": found["scales"][1:]}, "q4"), (found, "q4a"), (found, "../q4"), (found, "q4_k")):
        safetensors.numpy.save_file(arrays, scales, {"scheme": name})
        with pytest.raises(CorruptInput, match=r"embedding\.scales"):
            ct.read(folder)


@pytest.mark.parametrize("name", ct.DENSE)
def test_dense_models_are_plain_checkpoints(toy: Toy, tmp_path: Path, name: str) -> None:
    model = quantize(huggingface.read(toy("qwen3")), chooser(name))
    folder = write(model, tmp_path / "m")
    assert "quantization_config" not in config_of(folder) and not ct.detect(folder)
    same(model, ct.read(folder), plain=("embedding",))
    same(model, huggingface.read(folder), plain=("embedding",))


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_the_library_decodes_the_same_numbers(toy: Toy, tmp_path: Path, name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file

    model = quantize(huggingface.read(toy("qwen3")), chooser(name))
    folder = write(model, tmp_path / "m")
    arrays = load_file(folder / "model.safetensors")
    config = QuantizationConfig.model_validate(config_of(folder)["quantization_config"])
    compressor = BaseCompressor.get_value_from_registry(config.format)
    names = plugins.load("architectures", "qwen3").names(model.spec)
    for role in ("layers.0.mlp.down", "layers.2.attention.key"):
        module = names[role].removesuffix("weight")
        state = {key.removeprefix(module): value for key, value in arrays.items() if key.startswith(module)}
        state["weight_scale"] = state["weight_scale"].to(torch.float32)
        decoded = compressor.decompress(state, config.config_groups["group_0"])["weight"]
        tensor = model.tensors[role]
        assert np.array_equal(decoded.numpy(), tensor.rows(0, tensor.shape[0]))


def test_zero_points_pack_down_the_rows() -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 7, 8, 20):
        zeros = rng.integers(0, 16, (rows, 5), np.uint8)
        words = ct._packed_zeros(4)(Codes(np.zeros((rows, 1), np.uint8), np.zeros((rows, 5), np.float32), zeros))
        assert words.shape == (-(-rows // 8), 5) and words.dtype == np.int32
        assert int(words.view(np.uint32)[0, 2] & 15) == zeros[0, 2]
        assert np.array_equal(ct._unpacked_zeros(words, 4, 0, rows), zeros)
    assert np.array_equal(ct._unpacked_zeros(words[1:], 4, 11, 18), zeros[11:18])


def test_targets_and_ignored_modules(toy: Toy, tmp_path: Path) -> None:
    model = huggingface.read(toy("qwen2", intermediate_size=240))
    four, eight = (quantize(model, chooser(name)).tensors for name in ("q4", "q8"))
    tensors = {role: (eight if role in ("head", "layers.1.mlp.up") else four)[role] for role in model.tensors}
    model = dataclasses.replace(model, tensors=tensors)
    folder = write(model, tmp_path / "m")
    config = config_of(folder)["quantization_config"]
    groups = {tuple(group["targets"]): group["weights"]["num_bits"] for group in config["config_groups"].values()}
    assert groups == {("model.layers.1.mlp.up_proj", "lm_head"): 8, ("Linear",): 4}
    assert config["ignore"] == [f"model.layers.{number}.mlp.down_proj" for number in range(3)]
    same(model, ct.read(folder), plain=("embedding",))
    tied = ct.plan(quantize(huggingface.read(toy("qwen3")), chooser("q4")))
    assert json.loads(tied.files["config.json"])["quantization_config"]["ignore"] == ["lm_head"]
    assert tied.unpacked == {"embedding"} and tied.notes


def test_refuses_what_it_cannot_hold(toy: Toy) -> None:
    with pytest.raises(Unsupported, match="q6_k") as caught:
        ct.plan(quantize(huggingface.read(toy("qwen3", hidden_size=256)), chooser("q6_k")))
    assert "--requantize" in caught.value.cure


def test_refuses_folders_that_do_not_fit_together(toy: Toy, tmp_path: Path) -> None:
    folder = write(quantize(huggingface.read(toy("qwen3")), chooser("q4a")), tmp_path / "m")
    whole = (folder / "config.json").read_bytes()
    weights = ("quantization_config", "config_groups", "group_0", "weights")
    for path, value in (
        (("intermediate_size",), 224),
        (("num_hidden_layers",), 2),
        (("tie_word_embeddings",), False),
        (("quantization_config",), None),
        (("quantization_config", "config_groups"), []),
        ((*weights, "group_size"), 64),
        ((*weights, "num_bits"), 8),
        ((*weights, "symmetric"), True),
        ((*weights, "actorder"), "group"),
    ):
        config = json.loads(whole)
        place = config
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SlmopsError):
            ct.read(folder)
    (folder / "config.json").write_bytes(whole)
    shape = ct._safetensors.parse(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight_shape"]
    with shape.path.open("r+b") as file:
        file.seek(shape.offset)
        file.write(b"\xff" * 8)
    with pytest.raises(CorruptInput, match="weight_shape"):
        ct.read(folder)
