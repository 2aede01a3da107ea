"""Small valid inputs of every reader, for fuzz.py: one layer, 64 or 256 columns, 40 tokens (310 in one of each).

python bench/fuzzseeds.py gptq CHECKPOINT OUT     the same of a whole checkpoint, for repack.py
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import slmops
from conftest import write_toy
from slmops import compile as compiler
from slmops.core import plugins, roles
from slmops.core.tensor import to_numpy
from slmops.passes.quantize import chooser, quantize
from slmops.quantize._affine import parse

TOKENS = 40
SIZES = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "head_dim": 32, "num_attention_heads": 2,
         "num_key_value_heads": 1, "vocab_size": TOKENS}  # fmt: skip
WIDE = {**SIZES, "hidden_size": 256, "intermediate_size": 256, "head_dim": 128}
"""For super-blocks of 256."""


def toy(folder: Path, family: str = "llama", **changes: Any) -> Path:
    config = {"rope_scaling": None, **SIZES, **changes}
    write_toy(family, folder, dtype=np.float16, **config)
    if config["vocab_size"] == TOKENS:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(_of_few_tokens(json.loads(path.read_text()))))
        for name in ("config.json", "generation_config.json"):
            held = json.loads((folder / name).read_text())
            end = [TOKENS - 1] if isinstance(held["eos_token_id"], list) else TOKENS - 1
            (folder / name).write_text(json.dumps({**held, "eos_token_id": end}))
    return folder


def _of_few_tokens(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer with TOKENS tokens: fewer fields to change and to read, so more mutants a second."""
    letters, special = list("abcdefghijklmnopqrstuvwxyzĠĊ."), tokenizer["added_tokens"]
    merges = [["t", "h"], ["th", "e"], ["Ġ", "a"], ["i", "n"], ["Ġ", "the"], ["o", "n"], ["e", "r"], ["a", "n"]]
    names = [*letters, *("".join(pair) for pair in merges)]
    assert len(names) + len(special) == TOKENS
    added = [{**token, "id": len(names) + number} for number, token in enumerate(special)]
    model = {**tokenizer["model"], "vocab": {name: number for number, name in enumerate(names)}, "merges": merges}
    return {**tokenizer, "model": model, "added_tokens": added}


def make(reader: str, folder: Path) -> Iterator[Path]:
    """Paths that slmops.load reads by this reader."""
    folder.mkdir(parents=True)
    if reader == "huggingface":
        yield toy(folder / "llama")
        yield toy(folder / "qwen3", "qwen3", vocab_size=310)
        yield toy(folder / "phi3", "phi3")
        scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 64}  # fmt: skip
        yield toy(folder / "scaled", rope_scaling=scaled)
    elif reader == "gguf":
        for scheme in ("q4", "q8", "q4_k_m", "q5_1", "f16"):
            sizes = WIDE if scheme == "q4_k_m" else {**SIZES, "vocab_size": 310} if scheme == "f16" else SIZES
            family = "qwen3" if scheme == "q8" else "llama"
            made = converted(toy(folder / f"{scheme}-toy", family, **sizes), "gguf", scheme, folder / f"{scheme}-made")
            alone = folder / f"{scheme}-alone"
            alone.mkdir()
            shutil.copy(made / "model.gguf", alone / "model.gguf")
            yield alone / "model.gguf"
    elif reader in ("mlx", "compressed_tensors", "openvino", "onnx"):
        for scheme in ("q4", "q4a", "f16"):
            vocabulary = 310 if scheme == "f16" else TOKENS
            source = toy(folder / f"{scheme}-toy", "qwen3", vocab_size=vocabulary)
            yield converted(source, reader, scheme, folder / f"{scheme}-made")
            if reader == "openvino":
                yield stripped(folder / f"{scheme}-made", folder / f"{scheme}-stripped")
        if reader == "openvino":
            yield stripped(rounding(toy(folder / "static-toy", "qwen3"), folder / "static"), folder / "static-stripped")
        if reader == "mlx":
            yield converted(toy(folder / "three"), reader, "int3-g32-bias-f16", folder / "three-made")
    elif reader in ("gptq", "awq"):
        yield transposed(toy(folder / "toy"), folder / "plain", reader)
        if reader == "gptq":
            yield transposed(toy(folder / "toy2"), folder / "eight", reader, bits=8, checkpoint_format="gptq_v2")
            yield transposed(toy(folder / "toy3"), folder / "order", reader, order=True)
    elif reader == "bitnet":
        yield ternary(toy(folder / "toy", "bitnet"), folder / "made")


def converted(source: Path, form: str, scheme: str, out: Path) -> Path:
    (made,) = compiler.convert(slmops.load(source), [form], scheme, out, verify=False)
    return made.folder


def rounding(source: Path, out: Path) -> Path:
    """Codes by row, and a step for each input that is rounded."""
    model = quantize(slmops.load(source), chooser("w8a8_static"))
    steps = {role: 0.25 for role in model.tensors if roles.facts(role).quantize}
    (made,) = compiler.convert(dataclasses.replace(model, steps=steps), ["openvino"], compiler.KEEP, out, verify=False)
    return made.folder


def stripped(source: Path, folder: Path) -> Path:
    """The same graph without its ports, which the reader does not look at: a third of the text, and every change tells."""
    shutil.copytree(source, folder)
    xml = folder / "openvino_model.xml"
    xml.write_text(re.sub(r"<(input|output)>.*?</\1>", "", xml.read_text(), flags=re.DOTALL))
    facts = json.loads((folder / "slmops.json").read_text())
    facts["files"][xml.name] = xml.stat().st_size
    (folder / "slmops.json").write_text(json.dumps(facts))
    return folder


def _copy(source: Path, folder: Path, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return folder


def transposed(
    source: Path, folder: Path, method: str, *, bits: int = 4, group: int = 32, order: bool = False, **said: Any
) -> Path:
    """GPTQ or AWQ: every layer's matrices as random words."""
    model, rng = slmops.load(source), np.random.default_rng(0)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": bits, "group_size": group, **said}
    names, arrays = plugins.load("architectures", model.spec.family).names(model.spec), {}
    for role, tensor in model.tensors.items():
        if len(tensor.shape) != 2 or role in ("embedding", "head"):
            arrays[names[role]] = to_numpy(tensor).astype(np.float16)
            continue
        (rows, inputs), module = tensor.shape, names[role].removesuffix(".weight")
        words = (inputs * bits // 32, rows) if method == "gptq" else (inputs, rows * bits // 32)
        arrays[f"{module}.qweight"] = _words(rng, words, bits)
        arrays[f"{module}.qzeros"] = _words(rng, (inputs // group, rows * bits // 32), bits)
        arrays[f"{module}.scales"] = (rng.random((inputs // group, rows)) * 0.01 + 0.001).astype(np.float16)
        if method == "gptq":
            index = np.arange(inputs) // group
            arrays[f"{module}.g_idx"] = (rng.permutation(index) if order else index).astype(np.int32)
    return _copy(source, folder, config, arrays)


def _words(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Random codes in words of 32 bits. Of 8 bits they lie around the middle, as trained weights' do: all over the range,
    they make a network whose own 8-bit activations put its logits past the bound."""
    if bits != 8:
        return rng.integers(-(2**31), 2**31, shape).astype(np.int32)
    codes = rng.normal(128, 16, (shape[0], shape[1] * 4)).clip(0, 255).astype(np.uint8)
    return codes.view(np.int32)


def ternary(source: Path, folder: Path) -> Path:
    """BitNet: every layer's matrices as random ternary codes."""
    model, rng = slmops.load(source), np.random.default_rng(0)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    names, arrays = plugins.load("architectures", model.spec.family).names(model.spec), {}
    for role, tensor in model.tensors.items():
        if len(tensor.shape) != 2 or role in ("embedding", "head"):
            arrays[names[role]] = to_numpy(tensor).astype(np.float16)
            continue
        rows, columns = tensor.shape
        digits = rng.integers(0, 3, (4, rows // 4, columns), dtype=np.uint8)
        arrays[names[role]] = digits[0] | digits[1] << 2 | digits[2] << 4 | digits[3] << 6
        arrays[names[role].removesuffix(".weight") + ".weight_scale"] = np.array([0.0625], np.float32)
    return _copy(source, folder, config, arrays)


def packed(reader: str, scheme: str, plain: Callable[..., Path], folder: Path) -> Path:
    """What this reader finds as codes of a scheme (a name of tests/matrix.py); `plain` makes a checkpoint of a family."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 2}
    if reader == "bitnet":
        return ternary(plain("bitnet"), folder)
    if reader in ("gptq", "awq"):
        held = parse(scheme)
        assert held is not None
        return transposed(plain("qwen2", **sizes), folder, reader, bits=held.bits, group=held.group)
    return converted(plain("qwen3", **sizes), reader, scheme, folder)


if __name__ == "__main__":  # fuzzseeds.py gptq CHECKPOINT OUT: for repack.py
    transposed(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[1])
