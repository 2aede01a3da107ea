"""MLX folders, as mlx-lm writes and loads them: safetensors with affine codes, config.json, tokenizer.

A quantized matrix `x.weight` [N, K] becomes x.weight uint32 [N, K * bits / 32] (element 0 in the low bits), x.scales
and x.biases [N, K / group]; its value is scale * code + bias, so bias = -zero * scale. Source: mlx.core.quantize, and
mlx_lm/utils.py (load_model: per-layer entries of config["quantization"]).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, roles
from slmops.core import scheme as schemes_of
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.layout import Layout
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Stored, Tensor
from slmops.formats import _checkpoint, _encode, _files, _safetensors
from slmops.formats._safetensors import Place

TITLE = "MLX"
QUANTIZED = ("q4", "q8", "q4a")
DENSE = ("f32", "f16", "bf16")

U32 = _safetensors.DTYPES["U32"]
SCHEME = "scheme"
"""Metadata key: the scheme of most matrices; `scheme.<module>` where one differs. MLX itself has no word for it."""


def detect(path: Path) -> bool:
    """A folder whose config.json has MLX's `quantization`, or whose safetensors say that MLX wrote them."""
    if not path.is_dir() or not _files.there(path, "config.json"):
        return False
    found = _files.read_json(path, "config.json").get("quantization")
    if isinstance(found, dict) and "bits" in found and "group_size" in found:
        return True
    files = sorted(path.glob("model*.safetensors"))
    return bool(files) and _safetensors.header(files[0])[1].get("format") == "mlx"


def support(spec: Spec, schemes: Iterable[str]) -> None:
    """Raise Unsupported for what mlx-lm's module of this family does not do, or codes that MLX cannot hold."""
    for name in schemes:
        if name not in QUANTIZED + DENSE:
            raise Unsupported(f"MLX cannot hold {name} exactly", f"it holds {', '.join(QUANTIZED + DENSE)}")
    module = getattr(plugins.load("architectures", spec.family), "MLX", None)
    if module is None:
        raise Unsupported(f"mlx-lm has no module for {spec.family}", "choose another format")
    if _windowed(spec) and (module != "llama" or None not in spec.windows):
        raise Unsupported(f"mlx-lm's {module} has no sliding window of this kind", "choose another format")
    if module == "qwen2" and spec.head_dim * spec.heads != spec.hidden:
        raise Unsupported("mlx-lm's qwen2 wants heads that fill the hidden size", "choose another format")
    if module == "qwen3" and (spec.attention_bias or spec.output_bias):
        raise Unsupported("mlx-lm's qwen3 has no biases", "choose another format")


def _windowed(spec: Spec) -> bool:
    """Whether a window is shorter than the context, so that leaving it out would change results."""
    return any(window is not None and window < spec.context for window in spec.windows)


def plan(model: Model) -> Layout:
    """Every byte's place. Scales and biases are bf16 or f16, whichever holds them exactly."""
    packed = _checkpoint.packed(model)
    used = [tensor.scheme.name for tensor in packed.values()]
    support(model.spec, {schemes_of.stored_as(tensor) for tensor in model.tensors.values()})
    dtype, notes = _dtype(model, used)
    names = _checkpoint.names(model.spec)
    metadata, quantization = _describe(model, names, used)
    groups = [list(_places(role, names[role], tensor, dtype)) for role, tensor in model.tensors.items()]
    files = _safetensors.lay_out(groups, metadata, parameters=model.parameters)
    more: dict[str, Any] = {"quantization": quantization, "quantization_config": quantization} if used else {}
    if model.spec.windows:
        kinds = ("full_attention", "sliding_attention")
        more["layer_types"] = [kinds[_windowed(model.spec) and w is not None] for w in model.spec.windows]
    config = _checkpoint.config(model, dtype, more)
    return Layout(
        format="mlx",
        sizes=files.sizes,
        literals=files.literals,
        regions=files.regions,
        files={**files.index, **_checkpoint.files(model, config)},
        notes=tuple(notes),
    )


def _dtype(model: Model, used: Sequence[str]) -> tuple[np.dtype[Any], list[str]]:
    """The dtype of scales and vectors, which is the one that mlx-lm computes in."""
    found, f16, f32 = _checkpoint.vectors(model), DTYPES["f16"], DTYPES["f32"]
    dtype = model.tensors["embedding"].dtype if not used else f16 if "q4a" in used or found == f32 else found
    if found == f32 != dtype:
        return dtype, ["norms stay f32, as in the checkpoint, and mlx-lm then computes in f32"]
    if "q4a" in used:
        return dtype, ["computes in f16: only f16 holds zero point times scale exactly"]
    return dtype, []


def _describe(model: Model, names: dict[str, str], used: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The file's metadata, and config.json's `quantization` with an entry for each matrix that differs."""
    if not used:
        return {"format": "mlx"}, {}
    common = _checkpoint.most_used(list(used))
    metadata = {"format": "mlx", SCHEME: common}
    quantization = _parameters(schemes_of.load(common))
    for role, tensor in model.tensors.items():
        module = names[role].removesuffix(".weight")
        if isinstance(tensor, Packed):
            if tensor.scheme.name != common:
                metadata[f"{SCHEME}.{module}"] = tensor.scheme.name
                quantization[module] = _parameters(tensor.scheme)
        elif roles.facts(role).quantize:
            quantization[module] = False
    return metadata, quantization


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
    yield Place(f"{module}.biases", dtype, grouped, role, _encode.biases(dtype, scheme.zero))


def read(path: Path) -> Model:
    """The folder as a Model, packed tensors code for code; raises CorruptInput on what MLX could not load."""
    folder = _checkpoint.read(path)
    said: dict[str, str] = {}
    for file in sorted({tensor.path for tensor in folder.stored.values()}):
        said |= _safetensors.header(file)[1]
    shapes: dict[str, tuple[int, ...]] = plugins.load("architectures", folder.spec.family).shapes(folder.spec)
    tensors: dict[str, Tensor] = {}
    for role, name in _checkpoint.names(folder.spec).items():
        module = name.removesuffix(".weight")
        if f"{module}.scales" not in folder.stored:
            tensors[role] = folder.dense(name)
            continue
        wanted = said.get(f"{SCHEME}.{module}", said.get(SCHEME))
        if wanted not in QUANTIZED:
            raise Unsupported(f"{path.name} does not say which scheme its codes follow", "only artifacts of slmops do")
        scheme = schemes_of.load(wanted)
        quantization = folder.config.get("quantization")
        entry = quantization.get(module, quantization) if isinstance(quantization, dict) else None
        if not isinstance(entry, dict) or (entry.get("bits"), entry.get("group_size")) != (scheme.bits, scheme.group):
            raise CorruptInput(f"config.json and the metadata disagree about {module}", "write the artifact again")
        rows, columns = shapes[role]
        grouped, floats = (rows, columns // scheme.group), ("F16", "BF16", "F32")
        tensors[role] = _packed(
            scheme,
            shapes[role],
            folder.take(name, ("U32",), (rows, columns * scheme.bits // 32)),
            folder.take(f"{module}.scales", floats, grouped),
            folder.take(f"{module}.biases", floats, grouped),
        )
    return folder.model(tensors)


def _packed(scheme: Scheme, shape: tuple[int, ...], weight: Stored, scales: Stored, biases: Stored) -> Packed:
    def block(start: int, stop: int) -> Codes:
        codes = weight.rows(start, stop).view(np.uint8)
        scale = scales.rows(start, stop).astype(np.float32)
        bias = biases.rows(start, stop).astype(np.float32)
        if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
            raise CorruptInput(f"{weight.path.name} holds scales that are no numbers", "write the artifact again")
        if scheme.zero is not None:
            zeros, expected = None, scale * np.float32(-scheme.zero)
        else:
            # A scale of 0 says that every value is 0, whatever the zero point.
            ratio = np.rint(-bias / np.where(scale == 0, np.float32(1), scale))
            zeros = np.clip(ratio, 0, 2**scheme.bits - 1).astype(np.uint8)
            expected = scale * -zeros.astype(np.float32)
        if not np.array_equal(bias, expected):
            raise CorruptInput(f"{weight.path.name} holds biases that are no zero point times scale of {scheme.name}")
        return Codes(codes, scale, zeros)

    return Packed(shape, scheme, block)
