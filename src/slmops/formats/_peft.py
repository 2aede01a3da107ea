"""LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors.

Names: base_model.model.<checkpoint name without .weight>.lora_A.weight [rank, in] and .lora_B.weight [out, rank]; the change
is lora_alpha / rank (or / sqrt(rank): use_rslora) times B @ A. Source: peft, tuners/lora/layer.py and config.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins
from slmops.core.adapter import Adapter, Pair
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.spec import Spec
from slmops.core.tensor import Floats, Stored, elements
from slmops.formats import _files, _safetensors
from slmops.quantize._cast import check_finite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_RANK = 4096
MOST_BYTES = 4 << 30
OTHERS = {"use_dora": "DoRA", "modules_to_save": "whole modules of its own", "layer_replication": "repeated layers",
          "trainable_token_indices": "tokens of its own", "lora_bias": "biases", "alora_invocation_tokens": "aLoRA",
          "fan_in_fan_out": "transposed weights", "target_parameters": "parameters that are no modules"}  # fmt: skip


def read(folder: Path, spec: Spec) -> Adapter:
    """The adapter in this folder, for a model of this spec. Raises SourceNotFound, CorruptInput or Unsupported."""
    if not _files.there(folder, CONFIG):
        raise SourceNotFound(
            f"{folder} has no {CONFIG}", "give the folder that PEFT's save_pretrained wrote: a LoRA beside its config"
        )
    config = _files.read_json(folder, CONFIG)
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise Unsupported(f"an adapter of the kind {str(config.get('peft_type'))[:40]!r} is not read", "LoRA is")
    for key, words in OTHERS.items():
        if config.get(key):
            raise Unsupported(f"a LoRA with {words} ({key} in {CONFIG}) is not read")
    if config.get("bias", "none") != "none":
        raise Unsupported(f"a LoRA that trained biases (bias: {str(config['bias'])[:40]!r}) is not read")
    if not _files.there(folder, WEIGHTS):
        raise SourceNotFound(f"{folder} has no {WEIGHTS}", "save the adapter again with safe_serialization")
    file = _files.inside(folder, WEIGHTS)
    stored = _safetensors.parse(file)
    pairs = _pairs(stored, config, spec)
    return Adapter(folder.resolve().name, pairs, hashlib.sha256(file.read_bytes()).hexdigest())


def _pairs(stored: Mapping[str, Stored], config: Mapping[str, Any], spec: Spec) -> dict[str, Pair]:
    if sum(elements(tensor.shape) * tensor.dtype.itemsize for tensor in stored.values()) > MOST_BYTES:
        raise Unsupported(
            f"{WEIGHTS} is larger than any LoRA: {MOST_BYTES >> 30} GiB are taken", "merge it where it was trained"
        )
    family = plugins.load("architectures", spec.family)
    shapes = family.shapes(spec)
    known = {name.removesuffix(".weight"): role for role, name in family.names(spec).items() if len(shapes[role]) == 2}
    left, pairs = dict(stored), {}
    for module, role in known.items():
        names = [f"base_model.model.{module}.lora_{part}.weight" for part in "AB"]
        if names[0] not in left and names[1] not in left:
            continue
        if names[0] not in left or names[1] not in left:
            raise CorruptInput(f"{WEIGHTS} has one half of the pair of {module}", "save the adapter again")
        pairs[role] = _pair(module, left.pop(names[0]), left.pop(names[1]), shapes[role], config)
    if left:
        word = min(left)[:120]
        raise Unsupported(
            f"{WEIGHTS} changes {word}, which is no matrix of a {spec.family} of this config", "check the base model"
        )
    if not pairs:
        raise CorruptInput(f"{WEIGHTS} holds no pair at all", "save the adapter again")
    return pairs


def _pair(module: str, a: Stored, b: Stored, shape: tuple[int, ...], config: Mapping[str, Any]) -> Pair:
    rank = a.shape[0] if len(a.shape) == 2 else 0
    if not 0 < rank <= MOST_RANK or a.shape != (rank, shape[1]) or b.shape != (shape[0], rank):
        raise CorruptInput(
            f"the pair of {module} is {list(a.shape)} and {list(b.shape)}, its matrix {list(shape)}", "check the base model"
        )
    own_rank = _of(config, "rank_pattern", module, config.get("r", 8))
    alpha = _of(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if own_rank != rank or not isinstance(alpha, int | float) or not math.isfinite(alpha) or not alpha:
        raise CorruptInput(
            f"{CONFIG} gives {module} the rank {str(own_rank)[:20]} and alpha {str(alpha)[:20]}; its rank is {rank}"
        )
    return Pair(_numbers(module, a), _numbers(module, b), alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """A pattern's value for this module: patterns name the end of a module's name."""
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise CorruptInput(f"{CONFIG}: {key} is no table")
    found = [value for name, value in pattern.items() if module == name or module.endswith(f".{name.lstrip('^')}")]
    return found[0] if found else default


def _numbers(module: str, stored: Stored) -> Floats:
    if stored.dtype.kind == "i" or stored.dtype.kind == "u":
        raise CorruptInput(f"the pair of {module} holds whole numbers", "save the adapter again")
    values = stored.rows(0, stored.shape[0]).astype(np.float32)
    check_finite(values, f"the pair of {module}", 0)
    return values
