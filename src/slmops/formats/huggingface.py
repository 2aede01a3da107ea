"""Hugging Face checkpoint folders: config.json, safetensors in one file or many, tokenizer, chat template.

Nothing but JSON and safetensors headers is read. Folders are hostile until proven otherwise: files stay inside, JSON is
bounded, no pickle is opened, no remote code is run.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core import plugins
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.layout import Layout
from slmops.core.model import Model, Tokenizer
from slmops.core.scheme import Packed
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Array, Lazy, Tensor
from slmops.core.verify import verify
from slmops.formats import _chat, _checkpoint, _encode, _files, _licence, _lora, _safetensors, _tokenizer
from slmops.formats._safetensors import Place

TITLE = "Hugging Face safetensors"
adapter = _lora.alone

DENSE = ("f32", "f16", "bf16")

IGNORED = (
    "*.rotary_emb.inv_freq", "*.rotary_emb.cos_cached", "*.rotary_emb.sin_cached", "*.attn.masked_bias",
    "*.self_attn.masked_bias", "model.rotary_emb.*",
)  # fmt: skip
"""Buffers that old checkpoints carry and that config.json determines."""

MOST_SHARDS = 10_000
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Survey:
    """What a folder says about itself: everything that a Model holds, before its tensors have roles.

    A checkpoint that is quantized already can be surveyed (and so inspected) where it cannot be read.
    """

    name: str
    spec: Spec
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """By checkpoint name."""
    tokenizer: Tokenizer | None
    chat_template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


def detect(path: Path) -> bool:
    """A folder with config.json that names a model_type, or one of its weight files alone: read() then says what lacks."""
    if not path.is_dir():
        return False
    return any(_files.there(path, name) for name in ("config.json", "model.safetensors", INDEX, "pytorch_model.bin"))


def read(path: Path) -> Model:
    """The checkpoint in this folder. Raises SourceNotFound, CorruptInput, UnknownFamily or Unsupported; opens no weight."""
    return assemble(survey(path))


def plan(model: Model) -> Layout:
    """Plain safetensors: every tensor in its own dtype, codes as the numbers that they stand for, in f16 or else f32."""
    names = _checkpoint.names(model.spec)
    packed = _checkpoint.packed(model)
    groups = [[_place(role, names[role], tensor)] for role, tensor in model.tensors.items()]
    files = _safetensors.lay_out(groups, {"format": "pt"}, parameters=model.parameters)
    wide = any(_encode.plain(tensor.scheme) == DTYPES["f32"] for tensor in packed.values())
    dtype = DTYPES["f32" if wide else "f16"] if packed else model.tensors["embedding"].dtype
    config = _checkpoint.config(model, dtype, {})
    return Layout(
        format="huggingface",
        sizes=files.sizes,
        literals=files.literals,
        regions=files.regions,
        files={**files.index, **_checkpoint.files(model, config), **_lora.peft(model)},
        unpacked=frozenset(packed),
        notes=("codes are written as the numbers that they stand for",) if packed else (),
    )


def _place(role: str, name: str, tensor: Tensor) -> Place:
    if isinstance(tensor, Packed):
        dtype = _encode.plain(tensor.scheme)
        return Place(name, dtype, tensor.shape, role, _encode.numbers(tensor.scheme, dtype))
    return Place(name, tensor.dtype, tensor.shape, role, _encode.dense(tensor.dtype))


def check(path: Path) -> None:
    """Raise what read() would raise about config.json alone: before weights are downloaded."""
    config = read_config(path)
    specs.from_config(config)
    _refuse_quantized(name_of(path), config)


def survey(path: Path, tensors: Mapping[str, Tensor] | None = None, *, tokenizer: bool = True) -> Survey:
    """Read config, headers and tokenizer of a folder; `tensors` stand in for weight files that are elsewhere.

    tokenizer=False leaves it as text, unread and unchecked: enough for a prediction, and real ones take over a second.
    """
    config = read_config(path)
    spec = specs.from_config(config)
    sizes: dict[str, int] = {}
    if tensors is None:
        files = weight_files(path)
        tensors = weights(path, files)
        sizes = {name: (path / name).stat().st_size for name in files}
    generation = _files.read_json(path, "generation_config.json") if _files.there(path, "generation_config.json") else {}
    return Survey(
        name=name_of(path),
        spec=spec,
        config=config,
        tensors=tensors,
        tokenizer=_tokenizer.read(path, config, generation) if tokenizer else _tokenizer.unread(path),
        chat_template=_chat.read(path),
        generation=generation,
        licence=_licence.read(path),
        source={"path": str(path), "files": sizes},
    )


def name_of(path: Path) -> str:
    """The folder's name; a snapshot in Hugging Face's cache is called after its repository."""
    path = path.resolve()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rsplit("--", 1)[-1]
    return path.name


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise SourceNotFound(f"{path} is not a folder", "give the folder that holds config.json and model.safetensors")
    if not _files.there(path, "config.json"):
        adapter = _files.there(path, "adapter_config.json")
        what = "is a LoRA adapter, not a model" if adapter else "has no config.json"
        raise SourceNotFound(f"{path} {what}", "give the folder of a whole model: config.json beside the weights")
    return _files.read_json(path, "config.json")


def wanted_weights(path: Path) -> list[str]:
    """Names of the safetensors files that the folder should hold: the index's shards, or model.safetensors."""
    if _files.there(path, INDEX) and not _files.there(path, "model.safetensors"):
        return sorted(set(_weight_map(path).values()))
    return ["model.safetensors"]


def weight_files(path: Path) -> list[str]:
    """Names of the safetensors files, checked to exist inside the folder."""
    names = wanted_weights(path)
    if not _files.there(path, "model.safetensors") and not _files.there(path, INDEX):
        pickles = [file.name for file in sorted(path.iterdir()) if any(fnmatch.fnmatch(file.name, p) for p in PICKLES)]
        if pickles:
            raise Unsupported(
                f"{path} holds its weights as pickle only ({pickles[0]}), which can run code when it is opened",
                "save it as safetensors where it came from: model.save_pretrained(folder) in transformers",
            )
        raise SourceNotFound(f"{path} has neither model.safetensors nor {INDEX}", "download the weights too")
    for name in names:
        if not _files.there(path, name):
            raise SourceNotFound(f"{INDEX} names {name}, which {path} does not have", "download the missing shard")
        _files.inside(path, name)
    return names


def _weight_map(path: Path) -> dict[str, str]:
    places = _files.read_json(path, INDEX, limit=32 << 20).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CorruptInput(f"{INDEX} has no weight_map", "download it again")
    files = set(map(str, places.values()))
    if len(files) > MOST_SHARDS:
        raise CorruptInput(f"{INDEX} names {len(files):,} files")
    for name in files:
        # A name with a path in it could lead out of the folder, on this system or on another.
        if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0") or not name.endswith(".safetensors"):
            raise CorruptInput(f"{INDEX} names {name[:100]!r}, which is no safetensors file of this folder")
    return places


def weights(path: Path, files: list[str]) -> dict[str, Tensor]:
    """Checkpoint name -> tensor of all shards."""
    tensors: dict[str, Tensor] = {}
    held: dict[str, set[str]] = {}
    for file in files:
        shard = _safetensors.parse(path / file)
        twice = tensors.keys() & shard.keys()
        if twice:
            raise CorruptInput(f"{file} repeats the tensor {min(twice)} of another shard", "download the checkpoint again")
        tensors.update(shard)
        held[file] = set(shard)
    if files != ["model.safetensors"]:
        for name, file in _weight_map(path).items():
            if name not in held[file]:
                raise CorruptInput(f"{INDEX} promises {name[:100]} in {file}, where it is not", "download both again")
    return tensors


def assemble(survey: Survey) -> Model:
    """Give the tensors their roles, and check them against what config.json promises."""
    _refuse_quantized(survey.name, survey.config)
    if survey.tokenizer is None:
        raise SourceNotFound(f"{survey.name} has no tokenizer", "put tokenizer.json (or tokenizer.model) beside the weights")
    spec, notes = survey.spec, []
    names: dict[str, str] = plugins.load("architectures", spec.family).names(spec)
    left = dict(survey.tensors)
    tensors: dict[str, Tensor] = {}
    for role, name in names.items():
        if name in left:
            tensors[role] = left.pop(name)
    if "head" in names and "head" not in tensors:
        raise CorruptInput(
            f"{survey.name} has no {names['head']}, and config.json does not say that the head is tied",
            'add "tie_word_embeddings": true to config.json if the model shares its embedding',
        )
    if spec.tied and "lm_head.weight" in left and "embedding" in tensors:
        tensors["embedding"] = _twin(tensors["embedding"], left.pop("lm_head.weight"))
        notes.append("lm_head.weight left out: config.json ties the head to the embedding")
    for name in [name for name in left if any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED)]:
        del left[name]
        notes.append(f"{name} left out: config.json determines it")
    if left:
        shown = ", ".join(list(left)[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise CorruptInput(
            f"{survey.name} holds tensors that a {spec.family} of its config.json does not have: {shown}",
            "config.json and the weights must belong together; an adapter must be merged first",
        )
    for role, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise Unsupported(
                f"{names[role]} is stored as {tensor.dtype.name}; f32, f16 and bf16 can be read",
                "give the checkpoint in one of these",
            )
    model = Model(
        name=survey.name,
        spec=spec,
        tensors=tensors,
        tokenizer=survey.tokenizer,
        chat_template=survey.chat_template,
        config=survey.config,
        generation=survey.generation,
        licence=survey.licence,
        source={**survey.source, "notes": notes},
    )
    verify(model)
    return model


def _refuse_quantized(name: str, config: Mapping[str, Any]) -> None:
    if found := config.get("quantization_config") or config.get("quantization"):
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise Unsupported(
            f"{name} is quantized in a way that is not read ({str(method)[:40]})",
            "gptq, awq, compressed-tensors and MLX are; or give the checkpoint that it was quantized from",
        )


def _twin(embedding: Tensor, head: Tensor) -> Tensor:
    """The embedding of a tied checkpoint that carries its head too. They must agree, which shows when they are read."""
    if head.shape != embedding.shape:
        raise CorruptInput(
            f"lm_head.weight is {list(head.shape)}, the embedding it should equal {list(embedding.shape)}",
            'set "tie_word_embeddings": false in config.json if the head is trained apart',
        )

    def rows(start: int, stop: int) -> Array:
        ours, theirs = embedding.rows(start, stop), head.rows(start, stop)
        if not (ours.astype("f4") == theirs.astype("f4")).all():
            raise CorruptInput(
                "config.json ties the head to the embedding, but lm_head.weight holds other numbers",
                'set "tie_word_embeddings": false in config.json if the head is trained apart',
            )
        return ours

    return Lazy(embedding.shape, embedding.dtype, rows)
