"""compressed-tensors folders, for vLLM, SGLang and transformers: safetensors with packed codes, config.json, tokenizer.

A quantized `x.weight` [N, K] becomes x.weight_packed int32 [N, K * bits / 32] (element 0 in the low bits, value plus
2^(bits-1)), x.weight_scale [N, K / group], x.weight_shape int64 [2] and, where asymmetric, x.weight_zero_point int32
[ceil(N * bits / 32), K / group], eight rows to a word. Source: compressed_tensors/compressors/pack_quantized (0.20) and
vLLM's compressed_tensors_wNa16.py. Dense models are plain safetensors without quantization_config.

The embedding stays in plain numbers: vLLM gathers a packed one only where it is symmetric and not tied to the head, and
most checkpoints of this size tie it. It is written in the narrowest dtype that holds scale * (code - zero) exactly: f16
for 4-bit codes (8 + 3 or 7 + 4 significant bits), f32 for 8-bit codes (15); its scales stand beside, so that our reader
finds the codes again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import roles
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.layout import Block, Layout
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Array, Bytes, Tensor
from slmops.formats import _checkpoint, _encode, _forms, _lora, _plain_codes, _safetensors
from slmops.formats._safetensors import Place
from slmops.quantize._affine import Affine, grid
from slmops.quantize._cast import check_finite

TITLE = "compressed-tensors"
adapter = _lora.alone
DENSE = ("f32", "f16", "bf16")
MIXES = ("q4", "q8")

I32, I64 = _safetensors.DTYPES["I32"], _safetensors.DTYPES["I64"]
METHOD = "compressed-tensors"
WORD = 32


def detect(path: Path) -> bool:
    """A folder whose config.json says quant_method compressed-tensors."""
    return _checkpoint.has_method(path, METHOD)


def support(spec: Spec) -> None:
    """Every family of ours is known to its engines."""


def forms(held: Scheme, scales: Sequence[str]) -> list[Scheme]:
    """4 or 8 bits, groups as they are; symmetric where that holds the codes, the scale in the first dtype that does.

    With zero points, transformers multiplies in the dtype that the scale is stored in: bf16 never holds those products, and
    f16 only where scales have few enough bits (q4a).
    """
    if not isinstance(held, Affine):
        return []
    widths = [bits for bits in (4, 8) if bits >= held.bits]
    symmetric: list[Scheme] = [grid(b, held.group, scale, zero=1 << (b - 1)) for b in widths[:1] for scale in scales]
    wide = ("f16", "f32") if held.significand + held.bits <= 11 else ("f32",)
    free: list[Scheme] = [grid(b, held.group, scale) for b in widths for scale in wide]
    return [*symmetric, *free]


def plan(model: Model) -> Layout:
    """Every byte's place."""
    support(model.spec)
    source, wanted = model, _checkpoint.vectors(model).name
    first = {"float16": "f16", "bfloat16": "bf16"}.get(wanted, "f16")
    scales = tuple(dict.fromkeys((first, "f16", "bf16", "f32")))
    model = _forms.fitted(model, TITLE, lambda scheme: forms(scheme, scales), skip=["embedding"])
    names = _checkpoint.names(model.spec)
    modules = {role: tensor for role, tensor in _checkpoint.packed(model).items() if role != "embedding"}
    dtype = _checkpoint.vectors(model) if modules else model.tensors["embedding"].dtype
    groups = [list(_places(role, names[role], tensor)) for role, tensor in model.tensors.items()]
    files = _safetensors.lay_out(groups, {"format": "pt"}, parameters=model.parameters)
    more: dict[str, Any] = {"quantization_config": _config(model, names, modules)} if modules else {}
    config = _checkpoint.config(model, dtype, more)
    embedding = model.tensors["embedding"]
    notes = []
    if isinstance(embedding, Packed):
        plain = _encode.plain(embedding.scheme).name
        notes.append(
            f"embedding: the {embedding.scheme.name} numbers stand as {plain}, for vLLM reads no codes of a tied one"
            + (f"; {_plain_codes.NAME} keeps their codes for slmops" if _plain_codes.keeps(embedding.scheme) else "")
        )
    layout = Layout(
        format="compressed_tensors",
        sizes=files.sizes,
        literals=files.literals,
        regions=files.regions,
        files={**files.index, **_checkpoint.files(model, config), **_lora.peft(model)},
        forms=_forms.changed(source, model),
        unpacked=frozenset({"embedding"} if isinstance(embedding, Packed) else ()),
        notes=tuple(notes),
    )
    return _plain_codes.beside(layout, "embedding", embedding) if isinstance(embedding, Packed) else layout


def _config(model: Model, names: Mapping[str, str], modules: Mapping[str, Packed]) -> dict[str, Any]:
    """quantization_config: the common scheme for the class Linear, others by module name, dense ones ignored."""
    kinds = {role: json.dumps(_arguments(tensor.scheme)) for role, tensor in modules.items()}
    common = _checkpoint.most_used(list(kinds.values()))
    targets: dict[str, list[str]] = {}
    for role, kind in kinds.items():
        # vLLM's ParallelLMHead is no Linear: the head must be named.
        if kind != common or role == "head":
            targets.setdefault(kind, []).append(names[role].removesuffix(".weight"))
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
            "weights": json.loads(kind),
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        for number, (kind, listed) in enumerate(targets.items())
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


def _places(role: str, name: str, tensor: Tensor) -> Iterable[Place]:
    if not isinstance(tensor, Packed):
        yield Place(name, tensor.dtype, tensor.shape, role, _encode.dense(tensor.dtype))
        return
    scheme, (rows, columns) = tensor.scheme, tensor.shape
    if role == "embedding":
        dtype = _encode.plain(scheme)
        yield Place(name, dtype, tensor.shape, role, _encode.numbers(scheme, dtype))
        return
    assert isinstance(scheme, Affine)
    module, groups, bits = name.removesuffix(".weight"), columns // scheme.group, scheme.bits
    if rows * columns * bits % WORD or columns * bits % WORD:
        raise Unsupported(f"compressed-tensors packs whole words: {module} has {columns} columns of {bits} bits")
    yield Place(f"{module}.weight_packed", I32, (rows, columns * bits // WORD), role, _encode.codes)
    yield Place(f"{module}.weight_scale", scheme.scale, (rows, groups), role, _encode.scales(scheme.scale))
    yield Place(f"{module}.weight_shape", I64, (2,), content=np.array(tensor.shape, I64).tobytes())
    if scheme.zero is None:
        each = WORD // bits
        shape = (-(-rows // each), groups)
        yield Place(f"{module}.weight_zero_point", I32, shape, role, _packed_zeros(bits), unit_rows=each)


def _packed_zeros(bits: int) -> _encode.Encoder:
    """Zero points [rows, groups] -> int32 [ceil(rows * bits / 32), groups], row 0 in the low bits."""
    each = WORD // bits

    def encode(block: Block) -> Array:
        assert isinstance(block, Codes) and block.zeros is not None
        rows, groups = block.zeros.shape
        padded = np.zeros((-(-rows // each) * each, groups), np.uint32)
        padded[:rows] = block.zeros
        shifts = np.arange(0, WORD, bits, dtype=np.uint32)[None, :, None]
        words: Array = np.bitwise_or.reduce(padded.reshape(-1, each, groups) << shifts, axis=1)
        return words.view(I32)

    return encode


def _unpacked_zeros(words: Array, bits: int, start: int, stop: int) -> Bytes:
    """int32 words from the one that holds row `start` on -> the rows' zero points, uint8 [stop - start, groups]."""
    each = WORD // bits
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)[None, :, None]
    zeros = (words.view(np.uint32)[:, None, :] >> shifts) & np.uint32((1 << bits) - 1)
    return zeros.reshape(-1, words.shape[1])[start % each :][: stop - start].astype(np.uint8)


def read(path: Path) -> Model:
    """The folder as a Model: codes as `Packed`, code for code; what is not packed as plain numbers."""
    folder = _checkpoint.read(path)
    known = _groups(_checkpoint.quantization(folder.config))
    tensors = folder.tensors("weight_packed", lambda module, shape: _packed(folder, module, shape, known))
    if not isinstance(tensors["embedding"], Packed):
        tensors["embedding"] = _plain_codes.found(path, tensors["embedding"])
    return folder.model(tensors)


Known = set[tuple[int, int | None, bool]]
"""(bits, group or None where the whole row is one, symmetric) of the config groups."""


def _groups(config: Mapping[str, Any]) -> Known:
    """The kinds that config.json names; Unsupported for those that are not read."""
    result: Known = set()
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        said = group.get("weights") if isinstance(group, dict) else None
        said = said if isinstance(said, dict) else {}
        form = group.get("format") or config.get("format") if isinstance(group, dict) else None
        bits, strategy = said.get("num_bits"), said.get("strategy")
        if form != "pack-quantized" or bits not in (4, 8) or said.get("type", "int") != "int":
            raise Unsupported(
                f"compressed-tensors of the kind {form!r}, {bits} bits, is not read"[:200], "pack-quantized is"
            )
        if strategy not in ("group", "channel") or (strategy == "group" and not isinstance(said.get("group_size"), int)):
            raise Unsupported(
                f"compressed-tensors with the strategy {strategy!r} is not read"[:200], "group and channel are"
            )
        if said.get("actorder") in ("group", "dynamic", True):
            raise Unsupported("compressed-tensors whose groups are not those of the columns (actorder: group) is not read")
        symmetric = said.get("symmetric", True) is not False
        result.add((bits, said["group_size"] if strategy == "group" else None, symmetric))
    return result


def _packed(folder: _checkpoint.Folder, module: str, shape: tuple[int, int], known: Known) -> Packed:
    (rows, columns), symmetric = shape, f"{module}.weight_zero_point" not in folder.stored
    held, scaled = folder.stored[f"{module}.weight_packed"].shape, folder.stored.get(f"{module}.weight_scale")
    bits = held[-1] * WORD // columns if held else 0
    groups = scaled.shape[-1] if scaled is not None and len(scaled.shape) == 2 else 0
    group = columns // groups if groups and columns % groups == 0 else 0
    if (bits, group, symmetric) not in known and (bits, None, symmetric) not in known:
        said = f"{bits} bits in groups of {group}, {'symmetric' if symmetric else 'with zero points'}"
        raise CorruptInput(f"config.json has no group that fits the codes of {module}: {said}", "download it again")
    stated = folder.take(f"{module}.weight_shape", ("I64", "I32"), (2,)).rows(0, 2)
    if tuple(stated) != shape:
        raise CorruptInput(f"{module}.weight_shape says {stated.tolist()}, config.json {list(shape)}")
    packed = folder.take(f"{module}.weight_packed", ("I32",), (rows, columns * bits // WORD))
    scales = folder.take(f"{module}.weight_scale", ("F16", "BF16", "F32"), (rows, groups))
    words = (-(-rows * bits // WORD), groups)
    zeros = None if symmetric else folder.take(f"{module}.weight_zero_point", ("I32",), words)
    each = WORD // bits

    def parameters(start: int, stop: int) -> Codes:
        scale = scales.rows(start, stop).astype(np.float32)
        check_finite(scale, f"{module}.weight_scale", start)
        points = None
        if zeros is not None:
            points = _unpacked_zeros(zeros.rows(start // each, -(-stop // each)), bits, start, stop)
        return Codes(np.empty((stop - start, 0), np.uint8), scale, points)

    def block(start: int, stop: int) -> Codes:
        return dataclasses.replace(parameters(start, stop), codes=packed.rows(start, stop).view(np.uint8))

    name = {dtype: name for name, dtype in DTYPES.items()}[scales.dtype]
    scheme = grid(bits, group, name, zero=None if zeros is not None else 1 << (bits - 1))
    return Packed(shape, scheme, block, parameters)
