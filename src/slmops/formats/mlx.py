"""MLX folders, as mlx-lm writes and loads them: safetensors with affine codes, config.json, tokenizer.

A quantized matrix `x.weight` [N, K] becomes x.weight uint32 [N, K * bits / 32] (element 0 in the low bits), x.scales
and x.biases [N, K / group]; its value is scale * code + bias, so bias = -zero * scale. Source: mlx.core.quantize, and
mlx_lm/utils.py (load_model: per-layer entries of config["quantization"]).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, roles
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.layout import Layout
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Tensor
from slmops.formats import _checkpoint, _encode, _files, _forms, _lora, _safetensors
from slmops.formats._safetensors import Place
from slmops.quantize._affine import Affine, grid
from slmops.quantize._cast import check_finite

TITLE = "MLX"
adapter = _lora.alone
DENSE = ("f32", "f16", "bf16")
NATIVE = ("int3-g64-bias-bf16", "int4-g64-bias-bf16", "int6-g64-bias-bf16")
"""Schemes of MLX alone that are worth trying."""
MIXES = tuple(f"int{bits}-g64-bias-bf16" for bits in (2, 3, 4, 5, 6, 8))

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)

U32 = _safetensors.DTYPES["U32"]


def detect(path: Path) -> bool:
    """A folder whose config.json has MLX's `quantization`, or whose safetensors say that MLX wrote them."""
    if not path.is_dir() or not _files.there(path, "config.json"):
        return False
    found = _files.read_json(path, "config.json").get("quantization")
    if isinstance(found, dict) and "bits" in found and "group_size" in found:
        return True
    files = sorted(path.glob("model*.safetensors"))
    return bool(files) and _safetensors.header(files[0])[1].get("format") == "mlx"


def support(spec: Spec) -> None:
    """Raise Unsupported for what mlx-lm's module of this family does not do."""
    module = getattr(plugins.load("architectures", spec.family), "MLX", None)
    if module is None:
        raise Unsupported(f"mlx-lm has no module for {spec.family}", "choose another format")
    # Of gemma3 the windows say which layers rotate by the other base too, whether anything reaches so far or not.
    fits = _of_gemma3(spec) if module == "gemma3_text" else module == "llama" and None in spec.windows
    if (_windowed(spec) or module == "gemma3_text") and not fits:
        raise Unsupported(f"mlx-lm's {module} has no sliding window of this kind", "choose another format")
    if module == "gemma3_text" and float(np.float32(DTYPES["bf16"].type(spec.hidden**0.5))) != spec.hidden**0.5:
        raise Unsupported(
            f"mlx-lm's {module} rounds the root of {spec.hidden} to bfloat16, so that its numbers are not the model's",
            "choose another format",
        )
    if spec.rope.scaling == "longrope" and spec.rope.short != spec.rope.long:
        raise Unsupported("mlx-lm's longrope takes the factors of long texts for short ones too", "choose another format")
    if spec.attention_cap or spec.logit_cap:
        raise Unsupported(f"mlx-lm's {module} has no soft caps", "choose another format")
    if module == "qwen2" and spec.head_dim * spec.heads != spec.hidden:
        raise Unsupported("mlx-lm's qwen2 wants heads that fill the hidden size", "choose another format")
    if module == "qwen3" and (spec.attention_bias or spec.output_bias):
        raise Unsupported("mlx-lm's qwen3 has no biases", "choose another format")


def _of_gemma3(spec: Spec) -> bool:
    """Whether one window slides in all layers but every sixth."""
    kinds = [window is not None for window in spec.windows]
    every = [bool((number + 1) % 6) for number in range(spec.layers)]
    return len(set(spec.windows) - {None}) == 1 and kinds == every


def _windowed(spec: Spec) -> bool:
    """Whether a window is shorter than the context, so that leaving it out would change results."""
    return any(window is not None and window < spec.context for window in spec.windows)


def plan(model: Model) -> Layout:
    """Every byte's place. Scales and biases are in the first of bf16, f16 and f32 that holds all of them exactly."""
    support(model.spec)
    source, (model, dtype, notes) = model, _held(model)
    packed = _checkpoint.packed(model)
    names = _checkpoint.names(model.spec)
    quantization = _describe(model, names, packed) if packed else {}
    groups = [list(_places(role, names[role], tensor, dtype)) for role, tensor in model.tensors.items()]
    files = _safetensors.lay_out(groups, {"format": "mlx"}, parameters=model.parameters)
    more: dict[str, Any] = {"quantization": quantization, "quantization_config": quantization} if packed else {}
    if model.spec.windows:
        kinds = ("full_attention", "sliding_attention")
        more["layer_types"] = [kinds[_windowed(model.spec) and w is not None] for w in model.spec.windows]
    config = _checkpoint.config(model, dtype, more)
    return Layout(
        format="mlx",
        sizes=files.sizes,
        literals=files.literals,
        regions=files.regions,
        files={
            **files.index,
            **_checkpoint.files(model, config),
            **(_lora.mlx(model.adapter, names) if model.adapter else {}),
        },
        forms=_forms.changed(source, model),
        notes=tuple(notes),
    )


def _held(model: Model) -> tuple[Model, np.dtype[Any], list[str]]:
    """The model in MLX's codes, the dtype of scales and vectors, which is the one that mlx-lm computes in, and notes."""
    found, f16, f32 = _checkpoint.vectors(model), DTYPES["f16"], DTYPES["f32"]
    if not _checkpoint.packed(model):
        return _noted(model, model.tensors["embedding"].dtype, found, [])
    first = found if found != f32 else f16
    for name in dict.fromkeys((names_of[first], "f16", "bf16", "f32")):
        dtype = DTYPES[name]
        try:
            held = _forms.fitted(model, TITLE, lambda scheme, name=name: forms(scheme, name))  # type: ignore[misc]
        except Unsupported:
            if dtype == f32:
                raise
            continue
        only = [f"computes in {name}: only {name} holds its scales and zero points exactly"] if dtype != first else []
        return _noted(held, dtype, found, only)
    raise AssertionError("unreachable: f32 returns or raises")


names_of = {dtype: name for name, dtype in DTYPES.items()}


def _noted(
    model: Model, dtype: np.dtype[Any], found: np.dtype[Any], notes: list[str]
) -> tuple[Model, np.dtype[Any], list[str]]:
    if found == DTYPES["f32"] != dtype:
        notes.append("norms stay f32, as in the checkpoint, and mlx-lm then computes in f32")
    return model, dtype, notes


def forms(held: Scheme, scale: str) -> list[Scheme]:
    """MLX's affine mode of as few bits and as large groups as hold these codes, scales and biases in the dtype `scale`."""
    if not isinstance(held, Affine):
        return []
    groups = [group for group in GROUPS if held.group % group == 0]
    return [grid(next(bits for bits in WIDTHS if bits >= held.bits), groups[0], scale, biased=True)] if groups else []


def _describe(model: Model, names: dict[str, str], packed: dict[str, Packed]) -> dict[str, Any]:
    """config.json's `quantization`, with an entry for each matrix that differs."""
    used = {tensor.scheme.name: tensor.scheme for tensor in packed.values()}
    common = used[_checkpoint.most_used([tensor.scheme.name for tensor in packed.values()])]
    quantization = _parameters(common)
    for role, tensor in model.tensors.items():
        module = names[role].removesuffix(".weight")
        if isinstance(tensor, Packed):
            if tensor.scheme.name != common.name:
                quantization[module] = _parameters(tensor.scheme)
        elif roles.facts(role).quantize:
            quantization[module] = False
    return quantization


def _parameters(scheme: Scheme) -> dict[str, Any]:
    return {"group_size": scheme.group, "bits": scheme.bits, "mode": "affine"}


def _places(role: str, name: str, tensor: Tensor, dtype: np.dtype[Any]) -> Iterable[Place]:
    if not isinstance(tensor, Packed):
        # Vectors go to the model's dtype where that costs nothing (to bf16 it would); a matrix keeps its own.
        follows = not roles.facts(role).quantize and tensor.dtype.itemsize <= dtype.itemsize
        stored = dtype if follows and dtype != DTYPES["bf16"] else tensor.dtype
        yield Place(name, stored, tensor.shape, role, _encode.dense(stored))
        return
    scheme, (rows, columns) = tensor.scheme, tensor.shape
    module = name.removesuffix(".weight")
    grouped = (rows, columns // scheme.group)
    yield Place(name, U32, (rows, columns * scheme.bits // 32), role, _encode.codes)
    yield Place(f"{module}.scales", dtype, grouped, role, _encode.scales(dtype))
    yield Place(f"{module}.biases", dtype, grouped, role, _encode.biases(dtype))


def read(path: Path) -> Model:
    """The folder as a Model, packed tensors code for code; raises CorruptInput on what MLX could not load."""
    folder = _checkpoint.read(path)
    quantization = folder.config.get("quantization") or {}
    if not isinstance(quantization, dict) or quantization.get("mode", "affine") != "affine":
        mode = quantization.get("mode") if isinstance(quantization, dict) else quantization
        raise Unsupported(f"MLX's quantization mode {str(mode)[:40]!r} is not read", "affine is; convert it in mlx-lm first")
    return folder.model(folder.tensors("scales", lambda module, shape: _packed(folder, module, shape, quantization)))


def _packed(folder: _checkpoint.Folder, module: str, shape: tuple[int, int], quantization: Mapping[str, Any]) -> Packed:
    said = quantization.get(module)
    said = said if isinstance(said, dict) else quantization
    bits, group = said.get("bits"), said.get("group_size")
    rows, columns = shape
    if bits not in WIDTHS or group not in GROUPS or columns % group:
        raise CorruptInput(f"config.json gives {module} {bits} bits in groups of {group}"[:200], "download it again")
    grouped, floats = (rows, columns // group), ("F16", "BF16", "F32")
    weight = folder.take(f"{module}.weight", ("U32",), (rows, columns * bits // 32))
    scales = folder.take(f"{module}.scales", floats, grouped)
    biases = folder.take(f"{module}.biases", floats, grouped)

    def parameters(start: int, stop: int) -> Codes:
        scale = scales.rows(start, stop).astype(np.float32)
        bias = biases.rows(start, stop).astype(np.float32)
        check_finite(scale, f"{module}.scales", start)
        check_finite(bias, f"{module}.biases", start)
        return Codes(np.empty((stop - start, 0), np.uint8), scale, None, bias)

    def block(start: int, stop: int) -> Codes:
        return dataclasses.replace(parameters(start, stop), codes=weight.rows(start, stop).view(np.uint8))

    wide = scales.dtype if scales.dtype == biases.dtype else DTYPES["f32"]
    return Packed(shape, grid(bits, group, names_of[wide], biased=True), block, parameters)
