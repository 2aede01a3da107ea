"""compressed-tensors folders, for vLLM, SGLang and transformers: safetensors with packed codes, config.json, tokenizer.

A quantized `x.weight` [N, K] becomes x.weight_packed int32 [N, K * bits / 32] (element 0 in the low bits, value plus
2^(bits-1)), x.weight_scale [N, K / group], x.weight_shape int64 [2] and, where asymmetric, x.weight_zero_point int32
[ceil(N * bits / 32), K / group], eight rows to a word. Source: compressed_tensors/compressors/pack_quantized (0.20) and
vLLM's compressed_tensors_wNa16.py. Dense models are plain safetensors without quantization_config.

The embedding stays in plain numbers: vLLM gathers a packed one only where it is symmetric and not tied to the head, and
most checkpoints of this size tie it. It is written in the narrowest dtype that holds scale * (code - zero) exactly: f16
for 4-bit codes (8 + 3 or 7 + 4 significant bits), f32 for 8-bit codes (15).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, roles
from slmops.core import scheme as schemes_of
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.layout import Block, Layout
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Array, Bytes, Stored, Tensor
from slmops.formats import _checkpoint, _encode, _files, _safetensors
from slmops.formats._safetensors import Place
from slmops.quantize._cast import cast

TITLE = "compressed-tensors"
QUANTIZED = ("q4", "q8", "q4a")
DENSE = ("f32", "f16", "bf16")

I32, I64 = _safetensors.DTYPES["I32"], _safetensors.DTYPES["I64"]
METHOD = "compressed-tensors"
WORD = 32


def detect(path: Path) -> bool:
    """A folder whose config.json says quant_method compressed-tensors."""
    if not path.is_dir() or not _files.there(path, "config.json"):
        return False
    found = _files.read_json(path, "config.json").get("quantization_config")
    return isinstance(found, dict) and found.get("quant_method") == METHOD


def support(spec: Spec, schemes: Iterable[str]) -> None:
    """Raise Unsupported for codes that the format cannot hold. Every family of ours is known to its engines."""
    for name in schemes:
        if name not in QUANTIZED + DENSE:
            raise Unsupported(f"compressed-tensors cannot hold {name} exactly", f"it holds {', '.join(QUANTIZED + DENSE)}")


def plan(model: Model) -> Layout:
    """Every byte's place."""
    support(model.spec, {schemes_of.stored_as(tensor) for tensor in model.tensors.values()})
    names = _checkpoint.names(model.spec)
    modules = {role: tensor for role, tensor in _checkpoint.packed(model).items() if role != "embedding"}
    dtype = _checkpoint.vectors(model) if modules else model.tensors["embedding"].dtype
    # Both 16-bit floats hold every scale; with zero points, transformers multiplies in the dtype that the scale is
    # stored in, and only f16 holds those products.
    asymmetric = any(tensor.scheme.zero is None for tensor in modules.values())
    scale = DTYPES["f16"] if asymmetric or dtype == DTYPES["f32"] else dtype
    groups = [list(_places(role, names[role], tensor, scale)) for role, tensor in model.tensors.items()]
    files = _safetensors.lay_out(groups, {"format": "pt"}, parameters=model.parameters)
    more: dict[str, Any] = {"quantization_config": _config(model, names, modules)} if modules else {}
    config = _checkpoint.config(model, dtype, more)
    embedding = model.tensors["embedding"]
    notes = []
    if isinstance(embedding, Packed):
        plain = _plain(embedding.scheme).name
        notes.append(f"embedding: the {embedding.scheme.name} numbers stand as {plain} (vLLM reads no codes of a tied one)")
    return Layout(
        format="compressed_tensors",
        sizes=files.sizes,
        literals=files.literals,
        regions=files.regions,
        files={**files.index, **_checkpoint.files(model, config)},
        unpacked=frozenset({"embedding"} if isinstance(embedding, Packed) else ()),
        notes=tuple(notes),
    )


def _plain(scheme: Scheme) -> np.dtype[Any]:
    """The narrowest dtype that holds every scale * (code - zero) of a scheme."""
    return DTYPES["f16"] if scheme.bits <= 4 else DTYPES["f32"]


def _config(model: Model, names: Mapping[str, str], modules: Mapping[str, Packed]) -> dict[str, Any]:
    """quantization_config: the common scheme for the class Linear, others by module name, dense ones ignored."""
    common = _checkpoint.most_used([tensor.scheme.name for tensor in modules.values()])
    targets: dict[str, list[str]] = {}
    for role, tensor in modules.items():
        # vLLM's ParallelLMHead is no Linear: the head must be named.
        if tensor.scheme.name != common or role == "head":
            targets.setdefault(tensor.scheme.name, []).append(names[role].removesuffix(".weight"))
    # Last, because the first target that matches is taken.
    targets[common] = [*targets.pop(common, []), "Linear"]
    ignore = [
        names[role].removesuffix(".weight")
        for role in model.tensors
        if roles.facts(role).quantize and role not in modules and role != "embedding"
    ]
    groups = {
        f"group_{number}": {
            "targets": listed,
            "weights": _arguments(schemes_of.load(name)),
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        for number, (name, listed) in enumerate(targets.items())
    }
    return {
        "quant_method": METHOD,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [*ignore, *(["lm_head"] if model.spec.tied else [])],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _arguments(scheme: Scheme) -> dict[str, Any]:
    """compressed_tensors.quantization.QuantizationArgs of a scheme."""
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.zero is not None,
        "strategy": "group",
        "group_size": scheme.group,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": None,
        "observer_kwargs": {},
    }


def _places(role: str, name: str, tensor: Tensor, scale: np.dtype[Any]) -> Iterable[Place]:
    if not isinstance(tensor, Packed):
        yield Place(name, tensor.dtype, tensor.shape, role, _encode.dense(tensor.dtype))
        return
    scheme, (rows, columns) = tensor.scheme, tensor.shape
    if role == "embedding":
        dtype = _plain(scheme)
        yield Place(name, dtype, tensor.shape, role, _written_out(scheme, dtype))
        return
    module, groups = name.removesuffix(".weight"), columns // scheme.group
    yield Place(f"{module}.weight_packed", I32, (rows, columns * scheme.bits // WORD), role, _encode.codes)
    yield Place(f"{module}.weight_scale", scale, (rows, groups), role, _encode.scales(scale))
    yield Place(f"{module}.weight_shape", I64, (2,), content=np.array(tensor.shape, I64).tobytes())
    if scheme.zero is None:
        each = WORD // scheme.bits
        yield Place(f"{module}.weight_zero_point", I32, (-(-rows // each), groups), role, _packed_zeros, unit_rows=each)


def _written_out(scheme: Scheme, dtype: np.dtype[Any]) -> _encode.Encoder:
    def encode(block: Block) -> Array:
        assert isinstance(block, Codes)
        return cast(scheme.dequantize(block), dtype)

    return encode


def _packed_zeros(block: Block) -> Array:
    """Zero points [rows, groups] -> int32 [ceil(rows / 8), groups], row 0 in the low bits."""
    assert isinstance(block, Codes) and block.zeros is not None
    rows, groups = block.zeros.shape
    padded = np.zeros((-(-rows // 8) * 8, groups), np.uint32)
    padded[:rows] = block.zeros
    shifts = np.arange(0, WORD, 4, dtype=np.uint32)[None, :, None]
    words: Array = np.bitwise_or.reduce(padded.reshape(-1, 8, groups) << shifts, axis=1)
    return words.view(I32)


def _unpacked_zeros(words: Array, start: int, stop: int) -> Bytes:
    """int32 [words, groups] that hold the rows from `start // 8 * 8` on -> uint8 [stop - start, groups]."""
    shifts = np.arange(0, WORD, 4, dtype=np.uint32)[None, :, None]
    zeros = (words.view(np.uint32)[:, None, :] >> shifts) & np.uint32(15)
    return zeros.reshape(-1, words.shape[1])[start % 8 :][: stop - start].astype(np.uint8)


def read(path: Path) -> Model:
    """The folder as a Model: codes as `Packed`, code for code; the embedding and dense models as plain numbers."""
    folder = _checkpoint.read(path)
    known = _known(folder.config.get("quantization_config"))
    shapes: dict[str, tuple[int, ...]] = plugins.load("architectures", folder.spec.family).shapes(folder.spec)
    tensors: dict[str, Tensor] = {}
    for role, name in _checkpoint.names(folder.spec).items():
        module = name.removesuffix(".weight")
        packed = folder.stored.get(f"{module}.weight_packed")
        if packed is None:
            tensors[role] = folder.dense(name)
            continue
        rows, columns = shapes[role]
        symmetric = f"{module}.weight_zero_point" not in folder.stored
        scheme = known.get((packed.shape[-1] * WORD // columns if packed.shape else 0, symmetric))
        if scheme is None:
            raise CorruptInput(f"config.json has no group that fits the codes of {module}", "write the artifact again")
        grouped = (rows, columns // scheme.group)
        shape = folder.take(f"{module}.weight_shape", ("I64",), (2,)).rows(0, 2)
        if tuple(shape) != shapes[role]:
            raise CorruptInput(f"{module}.weight_shape says {shape.tolist()}, config.json {list(shapes[role])}")
        words = (-(-rows * scheme.bits // WORD), grouped[1])
        tensors[role] = _packed(
            scheme,
            shapes[role],
            folder.take(f"{module}.weight_packed", ("I32",), (rows, columns * scheme.bits // WORD)),
            folder.take(f"{module}.weight_scale", ("F16", "BF16", "F32"), grouped),
            None if symmetric else folder.take(f"{module}.weight_zero_point", ("I32",), words),
        )
    return folder.model(tensors)


def _known(config: Any) -> dict[tuple[int, bool], Scheme]:
    """(bits, symmetric) -> scheme, of the config groups; Unsupported for those that are none of ours."""
    result: dict[tuple[int, bool], Scheme] = {}
    groups = config.get("config_groups") if isinstance(config, dict) else {}
    for group in groups.values() if isinstance(groups, dict) else ():
        said = group.get("weights") if isinstance(group, dict) else None
        said = {key: value for key, value in said.items() if key in _STATED} if isinstance(said, dict) else {}
        for name in QUANTIZED:
            scheme = schemes_of.load(name)
            if said == {key: _arguments(scheme)[key] for key in _STATED}:
                result[scheme.bits, scheme.zero is not None] = scheme
                break
        else:
            raise Unsupported("these codes follow no scheme of slmops", f"known: {', '.join(QUANTIZED)}, groups of 32")
    return result


_STATED = ("num_bits", "type", "symmetric", "strategy", "group_size", "actorder")


def _packed(scheme: Scheme, shape: tuple[int, ...], packed: Stored, scales: Stored, zeros: Stored | None) -> Packed:
    def block(start: int, stop: int) -> Codes:
        scale = scales.rows(start, stop).astype(np.float32)
        if not np.isfinite(scale).all():
            raise CorruptInput(f"{scales.path.name} holds scales that are no numbers", "write the artifact again")
        codes = packed.rows(start, stop).view(np.uint8)
        if zeros is None:
            return Codes(codes, scale)
        return Codes(codes, scale, _unpacked_zeros(zeros.rows(start // 8, -(-stop // 8)), start, stop))

    return Packed(shape, scheme, block)
