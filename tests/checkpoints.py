"""Checkpoints of random numbers for tests, written without the code under test and without PyTorch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from slmops import stream
from slmops.core import plugins, receipt
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.quantize._recode import recode

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def tensors(config: Mapping[str, Any], seed: int = 0, dtype: str = "BF16") -> dict[str, np.ndarray]:
    """Checkpoint name -> random numbers of the shape that config.json gives it."""
    family = plugins.load("architectures", config["model_type"])
    spec = family.spec(config)
    names, shapes = family.names(spec), family.shapes(spec)
    random = np.random.default_rng(seed)
    return {names[role]: (random.standard_normal(shape) * 0.1).astype(DTYPES[dtype]) for role, shape in shapes.items()}


def same(model: Model, back: Model, plain: Sequence[str] = ()) -> None:
    """Code for code, number for number; the roles in `plain` may be held as the plain numbers of their codes."""
    assert back.spec == model.spec and back.tensors.keys() == model.tensors.keys()
    for role, tensor in model.tensors.items():
        other = back.tensors[role]
        assert isinstance(other, Packed) == isinstance(tensor, Packed) or role in plain, role
        for start, stop in stream.blocks(tensor, model.spec.row_multiple):
            ours, theirs = stream.pull(tensor, start, stop), stream.pull(other, start, stop)
            if isinstance(tensor, Packed) and not isinstance(other, Packed):
                ours = tensor.rows(start, stop)
            assert stream.digest(held_as(ours, tensor, other)) == stream.digest(theirs), role


def save_receipt(model: Model, form: str, digests: Mapping[str, Any], folder: Path) -> None:
    """As `slmops convert` leaves it, for tests that call a writer without the compiler."""
    facts = {
        "format": form,
        "name": model.name,
        "config": dict(model.config),
        "generation": dict(model.generation),
        "tokenizer": {"bos": model.tokenizer.bos, "eos": list(model.tokenizer.eos), "adds_bos": model.tokenizer.adds_bos},
        "chat_template": model.chat_template,
        "tensors": digests,
        "files": {path.name: path.stat().st_size for path in folder.iterdir()},
        "probes": {"ids": [], "texts": [], "conversations": []},
    }
    receipt.save(folder, facts)


def safetensors(path: Path, arrays: Mapping[str, np.ndarray], **forged: str) -> None:
    """Write one file; `forged` gives tensors another dtype's name in the header."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, body = {}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        dtype = forged.get(name, names.get(array.dtype, "U8"))
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def hollow(folder: Path, config: Mapping[str, Any]) -> Path:
    """A checkpoint of true shape whose weights are a hole in the file: it takes no disk, and reading it gives zeros."""
    family = plugins.load("architectures", config["model_type"])
    spec = family.spec(config)
    names, header, end = family.names(spec), {}, 0
    for role, shape in family.shapes(spec).items():
        begin, end = end, end + math.prod(shape) * 2
        header[names[role]] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer(folder)
    return folder


def tokenizer(folder: Path, vocab: int = 300) -> None:
    """A byte-level BPE tokenizer with a few merges and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the cat sat on the mat and the dog sat on the log"] * 4, trainer)
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def checkpoint(folder: Path, config: Mapping[str, Any], *, shards: int = 1, seed: int = 0, dtype: str = "BF16") -> Path:
    """A whole checkpoint in one file, or in shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    tokenizer(folder)
    split(folder, tensors(config, seed, dtype), shards)
    return folder


def split(folder: Path, arrays: Mapping[str, np.ndarray], shards: int) -> None:
    if shards == 1:
        safetensors(folder / "model.safetensors", arrays)
        return
    names: Sequence[str] = list(arrays)
    places = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        safetensors(folder / file, {name: arrays[name] for name in part})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def held_as(block: Any, tensor: Any, other: Any) -> Any:
    """A block of `tensor` in the scheme that `other` has, the same numbers; as it is where one of them is plain."""
    if not (isinstance(tensor, Packed) and isinstance(other, Packed)):
        return block
    return recode(block, tensor.scheme, other.scheme)
