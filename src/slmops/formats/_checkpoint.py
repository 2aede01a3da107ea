"""The small files of a checkpoint folder as Hugging Face lays it out: written for, and read back from, MLX and vLLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core import plugins, receipt
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.core.model import Model, Tokenizer
from slmops.core.scheme import Packed
from slmops.core.spec import Rope, Spec
from slmops.core.tensor import Stored, Tensor
from slmops.core.verify import verify
from slmops.formats import _chat, _files, _licence, _safetensors, _tokenizer

RECEIPT, MOST_RECEIPT = receipt.NAME, receipt.MOST_BYTES


def names(spec: Spec) -> dict[str, str]:
    """Role -> name in a Hugging Face checkpoint."""
    result: dict[str, str] = plugins.load("architectures", spec.family).names(spec)
    return result


def vectors(model: Model) -> np.dtype[Any]:
    """The dtype of the model's norms: what the checkpoint was trained or published in."""
    return model.tensors["norm"].dtype


def config(model: Model, dtype: np.dtype[Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as found, with what older readers look for spelled out from the spec."""
    result = dict(model.config)
    for key in ("quantization", "quantization_config", "auto_map", "torch_dtype"):
        result.pop(key, None)
    spec = model.spec
    result |= {
        "model_type": spec.family,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "rope_scaling": scaling(spec.rope),
        "tie_word_embeddings": spec.tied,
        "dtype": dtype.name,
        # The same under its name before transformers 4.56, which vLLM's older releases ask for.
        "torch_dtype": dtype.name,
    }
    if model.tokenizer.eos:
        result["eos_token_id"] = _one_or_many(model.tokenizer.eos)
    return {**result, **more}


def scaling(rope: Rope) -> dict[str, Any] | None:
    """rope_scaling as config.json spells it."""
    if rope.scaling == "none":
        return None
    if rope.scaling == "linear":
        return {"rope_type": "linear", "factor": rope.factor}
    if rope.scaling == "longrope":
        factors = {"short_factor": list(rope.short), "long_factor": list(rope.long)}
        known = {"attention_factor": rope.magnitude, "original_max_position_embeddings": rope.original_context}
        return {"rope_type": "longrope", "type": "longrope", **factors, **known}
    return {
        "rope_type": rope.scaling,
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_context,
    }


def files(model: Model, config: Mapping[str, Any]) -> dict[str, bytes]:
    """config.json, generation_config.json, the tokenizer's files and the chat template."""
    tokenizer = model.tokenizer
    generation = dict(model.generation)
    if tokenizer.eos:
        # Every engine stops by this list alone.
        generation["eos_token_id"] = _one_or_many(tokenizer.eos)
    result = {
        "config.json": _safetensors.to_json(config),
        "generation_config.json": _safetensors.to_json(generation),
        "tokenizer.json": tokenizer.json,
        "tokenizer_config.json": _safetensors.to_json(_tokenizer_config(tokenizer)),
    }
    if model.chat_template is not None:
        result["chat_template.jinja"] = model.chat_template.encode()
    return result


def _one_or_many(ids: tuple[int, ...]) -> int | list[int]:
    return ids[0] if len(ids) == 1 else list(ids)


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """As found (without code to fetch); from a source without one, the special tokens by their text."""
    found = {key: value for key, value in tokenizer.config.items() if key not in ("auto_map", "chat_template")}
    if found:
        return found
    texts = {entry["id"]: entry["content"] for entry in tokenizer.parsed.get("added_tokens", [])}
    eos = tokenizer.eos[0] if tokenizer.eos else None
    ids = {"bos_token": tokenizer.bos, "eos_token": eos, "pad_token": tokenizer.pad}
    named = {name: texts[number] for name, number in ids.items() if number in texts}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **named}


def quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's quantization_config; empty where there is none, or something else in its place."""
    found = config.get("quantization_config")
    return found if isinstance(found, dict) else {}


def has_method(path: Path, *methods: str) -> bool:
    """Whether a folder's config.json names one of these as its quant_method."""
    if not path.is_dir() or not _files.there(path, "config.json"):
        return False
    return quantization(_files.read_json(path, "config.json")).get("quant_method") in methods


@dataclass(frozen=True)
class Folder:
    """A folder read back: its small files, and its tensors by checkpoint name."""

    path: Path
    config: Mapping[str, Any]
    spec: Spec
    stored: dict[str, Stored]
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> Stored:
        """A tensor that must be there, in one of these dtypes and this shape."""
        tensor = self.stored.get(name)
        if tensor is None:
            raise CorruptInput(f"{self.path.name} has no tensor {name}", "write the artifact again")
        if _safetensors.NAMES[tensor.dtype] not in dtypes or tensor.shape != shape:
            said = f"{_safetensors.NAMES[tensor.dtype]} {list(tensor.shape)}"
            raise CorruptInput(f"{name} is {said}, not {' or '.join(dtypes)} {list(shape)}", "write the artifact again")
        self.taken.add(name)
        return tensor

    def dense(self, name: str) -> Tensor:
        """A tensor in plain numbers."""
        tensor = self.stored.get(name)
        return self.take(name, ("F32", "F16", "BF16"), tensor.shape if tensor is not None else ())

    def tensors(self, mark: str, matrix: Callable[[str, tuple[int, int]], Packed]) -> dict[str, Tensor]:
        """Every role: `matrix(module, shape)` for a matrix whose module has a tensor named `mark`, else numbers."""
        shapes: dict[str, tuple[int, ...]] = plugins.load("architectures", self.spec.family).shapes(self.spec)
        result: dict[str, Tensor] = {}
        for role, name in names(self.spec).items():
            module, shape = name.removesuffix(".weight"), shapes[role]
            packed = f"{module}.{mark}" in self.stored and len(shape) == 2
            result[role] = matrix(module, (shape[0], shape[1])) if packed else self.dense(name)
        return result

    def model(self, tensors: Mapping[str, Tensor]) -> Model:
        """Put together and checked; no tensor of the file may be left over."""
        left = self.stored.keys() - self.taken
        if left:
            raise CorruptInput(f"{self.path.name} holds tensors that no role takes, such as {min(left)[:100]}")
        said = quantization(self.config)
        if said and not any(isinstance(tensor, Packed) for tensor in tensors.values()):
            method = str(said.get("quant_method"))[:40]
            raise CorruptInput(f"config.json says {method!r}, and no tensor of {self.path.name} is packed", "download again")
        generation = _optional(self.path, "generation_config.json")
        tokenizer = _tokenizer.read(self.path, self.config, generation)
        if tokenizer is None:
            raise SourceNotFound(f"{self.path} has no tokenizer.json", "write the artifact again")
        plain = {key: value for key, value in self.config.items() if key not in ("quantization", "quantization_config")}
        model = Model(
            name=str(_optional(self.path, RECEIPT, MOST_RECEIPT).get("name", self.path.name)),
            spec=self.spec,
            tensors=tensors,
            tokenizer=tokenizer,
            chat_template=_chat.read(self.path),
            config=plain,
            generation=generation,
            licence=_licence.read(self.path),
            source={"path": str(self.path)},
        )
        verify(model)
        return model


def read(path: Path) -> Folder:
    """Read config.json and the tensors' headers of a folder; opens no weight."""
    found = _files.read_json(path, "config.json")
    spec = specs.from_config(found)
    return Folder(path, found, spec, _safetensors.parse_folder(path))


def _optional(path: Path, name: str, limit: int = _files.LIMIT) -> dict[str, Any]:
    return _files.read_json(path, name, limit) if _files.there(path, name) else {}


def packed(model: Model) -> dict[str, Packed]:
    """The tensors that are held as codes, by role."""
    return {role: tensor for role, tensor in model.tensors.items() if isinstance(tensor, Packed)}


def most_used(schemes: list[str]) -> str:
    """The scheme of most matrices; of equals, the first by name."""
    return min(set(schemes), key=lambda name: (-schemes.count(name), name))
