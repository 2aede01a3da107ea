"""An adapter in the engines' own files: GGUF-LoRA for llama.cpp, ONNX Runtime's and MLX's own, PEFT's for the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from slmops.core import plugins, roles
from slmops.core.adapter import Adapter
from slmops.core.errors import EngineMissing, Unsupported
from slmops.core.model import Model
from slmops.core.tensor import Array
from slmops.formats import _gguf_container as container

FOLDER = "adapter"
GGUF_FILE, ONNX_FILE = f"{FOLDER}/adapter.gguf", f"{FOLDER}/adapter.onnx_adapter"
PEFT_FILE = f"{FOLDER}/adapter_model.safetensors"
A, B = ".lora_A", ".lora_B"
"""Behind the role: what the inputs of the ONNX graph are called."""


def gguf(
    model: Model,
    name: Callable[[str], str],
    architecture: str,
    permuted: tuple[str, ...],
    permute: Callable[[Array, int], Array],
) -> dict[str, bytes]:
    """adapter.gguf: <tensor>.lora_a [rank, in] and .lora_b [out, rank], in f32. llama.cpp multiplies by alpha / rank.

    Source: llama.cpp, src/llama-adapter.cpp and convert_lora_to_gguf.py. Other scales than the first's are put into b.
    """
    adapter = model.adapter
    assert adapter is not None
    first = next(iter(adapter.pairs.values()))
    alpha = first.scale * first.rank
    entries = {
        "general.architecture": container.string(architecture),
        "general.type": container.string("adapter"),
        "general.name": container.string(adapter.name),
        "adapter.type": container.string("lora"),
        "adapter.lora.alpha": container.f32(alpha),
    }
    arrays: dict[str, Array] = {}
    for role, pair in adapter.pairs.items():
        b = pair.b * np.float32(pair.scale / (alpha / pair.rank)) if pair.scale != alpha / pair.rank else pair.b
        if roles.kind(role) in permuted:
            b = permute(b, model.spec.head_dim)
        arrays[f"{name(role)}.lora_a"] = pair.a
        arrays[f"{name(role)}.lora_b"] = np.ascontiguousarray(b)
    kinds = {key: (container.BY_NAME["F32"], values.shape) for key, values in arrays.items()}
    head, places, total = container.header(container.pack_entries(entries), len(entries), kinds)
    content = bytearray(total)
    content[: len(head)] = head
    for key, values in arrays.items():
        content[places[key].offset : places[key].offset + values.nbytes] = values.astype("<f4").tobytes()
    return {GGUF_FILE: bytes(content)}


def mlx(adapter: Adapter, names: Mapping[str, str]) -> dict[str, bytes]:
    """adapter/ as mlx_lm.load(adapter_path=...) wants it: lora_a [in, rank], lora_b [rank, out], one rank and one scale.

    Source: mlx_lm/tuner/utils.py (load_adapters, linear_to_lora_layers) and tuner/lora.py. Smaller ranks are padded.
    """
    rank, scale = max(pair.rank for pair in adapter.pairs.values()), next(iter(adapter.pairs.values())).scale
    arrays: dict[str, Array] = {}
    keys: list[str] = []
    layers = 1 + max((roles.layer(role) or 0) for role in adapter.pairs)
    for role, pair in adapter.pairs.items():
        module = names[role].removesuffix(".weight")
        if roles.layer(role) is None:
            raise Unsupported(f"mlx-lm has no adapter on {module}, which lies outside the layers", "merge it instead")
        extra = rank - pair.rank
        arrays[f"{module}.lora_a"] = np.ascontiguousarray(np.pad(pair.a.T, ((0, 0), (0, extra))))
        arrays[f"{module}.lora_b"] = np.ascontiguousarray(
            np.pad(pair.b.T, ((0, extra), (0, 0))) * np.float32(pair.scale / scale)
        )
        keys.append(module.split(".", 3)[3])
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(dict.fromkeys(keys))}
    config = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    return {
        f"{FOLDER}/adapters.safetensors": save(arrays, {"format": "mlx"}),
        f"{FOLDER}/adapter_config.json": json.dumps(config, indent=1).encode(),
    }


def peft(model: Model) -> dict[str, bytes]:
    """adapter/ as PEFT has it, every scale put into B: for transformers, vLLM and OpenVINO GenAI."""
    adapter, names = model.adapter, plugins.load("architectures", model.spec.family).names(model.spec)
    if adapter is None:
        return {}
    arrays: dict[str, Array] = {}
    ranks: dict[str, int] = {}
    for role, pair in adapter.pairs.items():
        module = names[role].removesuffix(".weight")
        arrays[f"base_model.model.{module}.lora_A.weight"] = pair.a
        arrays[f"base_model.model.{module}.lora_B.weight"] = pair.b * np.float32(pair.scale)
        ranks[module] = pair.rank
    most = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != most}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in ranks}),
    }
    return {
        PEFT_FILE: save(arrays, {"format": "pt"}),
        f"{FOLDER}/adapter_config.json": json.dumps(config, indent=1).encode(),
    }


def alone(model: Model, base: Path, out: Path) -> Path:
    """PEFT's file of the model's adapter alone, for the base that is served; `out` is an empty folder. Returns its file."""
    return written(peft(model), out)[PEFT_FILE]


def written(files: Mapping[str, bytes], out: Path) -> dict[str, Path]:
    """Put files of an adapter into a folder; their paths."""
    (out / FOLDER).mkdir(exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return {name: out / name for name in files}


def onnx(adapter: Adapter, dtype: np.dtype[Any]) -> Callable[[Path], None]:
    """A job that writes adapter.onnx_adapter: role.lora_A [in, rank] and role.lora_B [rank, out], the scale in B."""
    return partial(_export, adapter, dtype)


def _export(adapter: Adapter, dtype: np.dtype[Any], folder: Path) -> None:
    try:
        import onnxruntime
    except ImportError:
        raise EngineMissing(
            "ONNX Runtime writes its own adapter files and is not installed", 'pip install "slmops[onnx]"'
        ) from None
    values = {}
    for role, pair in adapter.pairs.items():
        values[role + A] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pair.a.T.astype(dtype)))
        scaled = np.ascontiguousarray((pair.b.T * np.float32(pair.scale)).astype(dtype))
        values[role + B] = onnxruntime.OrtValue.ortvalue_from_numpy(scaled)
    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters(values)
    (folder / FOLDER).mkdir(exist_ok=True)
    made.export_adapter(str(folder / ONNX_FILE))
