#!/usr/bin/env python3
"""Write a Hugging Face checkpoint of a real model's true shape with random weights, for speed and memory figures.

    python bench/make_checkpoint.py qwen3-0.6b OUT_FOLDER [--layers N] [--vocab N] [--seed N]

Needs numpy and tokenizers; no PyTorch. Weights are normal with sigma 0.02 (norms around 1) in bfloat16 and are streamed
to disk, so peak memory stays small whatever the model. Every tensor is drawn from its own seed, so the first layers of
a deep and of a cut checkpoint are the same.

The tokenizer is a byte-level BPE with Qwen2's pre-tokenizer, trained on the text of Python's standard library and
filled with further merges up to the true size, because converters pay for every token; the embedding is padded beyond
it as real ones are. Random weights say nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK = 4_000_000  # elements drawn at a time: 16 MB of float32
SHARD = 4_000_000_000  # bytes a shard at most, as model hubs do
TRAINED_TOKENS = 8000  # what the standard library's text supports; the rest are filler merges
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a published model; `more` holds the config keys that only its family has."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int
    rope_theta: float
    eps: float = 1e-6
    more: dict[str, Any] = field(default_factory=dict)


LLAMA3_ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
QWEN3 = {"attention_bias": False, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False}
QWEN2 = {"max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False}
LLAMA = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}

SHAPES = {
    "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 64, 49152, True, 8192, 1e5, 1e-5, LLAMA),
    "llama-3.2-1b": Shape(
        "llama", 2048, 8192, 16, 32, 8, 64, 128256, True, 131072, 5e5, 1e-5, LLAMA | {"rope_scaling": LLAMA3_ROPE}
    ),
    "qwen2.5-0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True, 32768, 1e6, 1e-6, QWEN2),
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, 40960, 1e6, 1e-6, QWEN3),
    "qwen3-1.7b": Shape("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True, 40960, 1e6, 1e-6, QWEN3),
    "qwen3-4b": Shape("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, 40960, 1e6, 1e-6, QWEN3),
    "mistral-7b": Shape("mistral", 4096, 14336, 32, 32, 8, 128, 32768, False, 32768, 1e6, 1e-5, {"sliding_window": None}),
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def tensors(s: Shape, layers: int, vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in Hugging Face's naming, in the order of a checkpoint."""
    yield "model.embed_tokens.weight", (vocab, s.hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (s.hidden,)
        for name, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
            yield p + f"self_attn.{name}_proj.weight", (heads * s.head_dim, s.hidden)
            if s.model_type == "qwen2":
                yield p + f"self_attn.{name}_proj.bias", (heads * s.head_dim,)
        if s.model_type == "qwen3":
            yield p + "self_attn.q_norm.weight", (s.head_dim,)
            yield p + "self_attn.k_norm.weight", (s.head_dim,)
        yield p + "self_attn.o_proj.weight", (s.hidden, s.heads * s.head_dim)
        yield p + "post_attention_layernorm.weight", (s.hidden,)
        yield p + "mlp.gate_proj.weight", (s.intermediate, s.hidden)
        yield p + "mlp.up_proj.weight", (s.intermediate, s.hidden)
        yield p + "mlp.down_proj.weight", (s.hidden, s.intermediate)
    yield "model.norm.weight", (s.hidden,)
    if not s.tied:
        yield "lm_head.weight", (vocab, s.hidden)


def bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of float32, rounded to nearest even."""
    bits = x.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits >> 16).astype(np.uint16)


def draw(out: BinaryIO, name: str, count: int, seed: int) -> None:
    """Write `count` random values of one tensor, block by block."""
    rng = np.random.default_rng([seed, *name.encode()])
    centre = np.float32(1 if name.endswith("norm.weight") else 0)
    for start in range(0, count, BLOCK):
        x = rng.standard_normal(min(BLOCK, count - start), dtype=np.float32)
        x *= np.float32(0.02)
        x += centre
        bfloat16(x).tofile(out)


def write_weights(folder: Path, todo: list[tuple[str, tuple[int, ...]]], seed: int) -> int:
    """Stream the tensors into shards of the safetensors layout; returns the number of parameters."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in todo:
        nbytes = 2 * math.prod(shape)
        if size + nbytes > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += nbytes
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    weight_map: dict[str, str] = {}
    total = 0
    for i, shard in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in shard:
            end = at + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
            weight_map[name] = file
            at = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shard:
                draw(out, name, math.prod(shape), seed)
        total += at
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return total // 2


def write_tokenizer(folder: Path, vocab: int) -> int:
    """Write tokenizer.json and its config; returns the id of the first special token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    size = vocab - min(256, vocab // 16)  # the rest of the embedding is padding
    base = size - len(SPECIAL)
    if base < 256:
        raise SystemExit(f"error: a byte-level vocabulary needs more than {vocab} tokens: give --vocab 512 or more")
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = sorted(str(p) for p in Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    trainer = trainers.BpeTrainer(
        vocab_size=min(base, TRAINED_TOKENS), initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tok.train(text, trainer)
    state = json.loads(tok.to_str())
    grow(state["model"]["vocab"], state["model"]["merges"], base)
    tok = Tokenizer.from_str(json.dumps(state))
    tok.add_special_tokens(SPECIAL)
    tok.save(str(folder / "tokenizer.json"))
    added = {
        str(base + i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        | {"special": True}
        for i, t in enumerate(SPECIAL)
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[2],
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": SPECIAL[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return base


def grow(vocab: dict[str, int], merges: list[list[str]], size: int) -> None:
    """Add merges of existing letter tokens, in place, until the vocabulary has `size` tokens."""
    parts = [t for t in sorted(vocab, key=vocab.__getitem__) if t.isascii() and t.isalpha()]
    for total in range(2 * len(parts)):  # pairs by the sum of their ranks: the frequent parts first
        for i in range(max(0, total - len(parts) + 1), min(total, len(parts) - 1) + 1):
            if len(vocab) >= size:
                return
            token = parts[i] + parts[total - i]
            if token not in vocab:
                vocab[token] = len(vocab)
                merges.append([parts[i], parts[total - i]])
    raise SystemExit(f"error: the filler gives {len(vocab)} of {size} tokens: give a smaller --vocab")


def config(s: Shape, layers: int, vocab: int, special: int) -> dict[str, Any]:
    """config.json with the keys the published checkpoints have."""
    c = {
        "architectures": [CLASSES[s.model_type]],
        "attention_dropout": 0.0,
        "bos_token_id": special,
        "eos_token_id": special + 2,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "hidden_size": s.hidden,
        "initializer_range": 0.02,
        "intermediate_size": s.intermediate,
        "max_position_embeddings": s.context,
        "model_type": s.model_type,
        "num_attention_heads": s.heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": s.kv_heads,
        "rms_norm_eps": s.eps,
        "rope_theta": s.rope_theta,
        "tie_word_embeddings": s.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab,
    } | s.more
    if s.model_type == "qwen3":
        c["max_window_layers"] = layers
    elif s.head_dim * s.heads == s.hidden:
        del c["head_dim"]  # as published: derived from the sizes
    return dict(sorted(c.items()))


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("shape", choices=SHAPES)
    a.add_argument("out", type=Path)
    a.add_argument("--layers", type=int, help="cut the depth to this many layers")
    a.add_argument("--vocab", type=int, help="another vocabulary size")
    a.add_argument("--seed", type=int, default=0)
    o = a.parse_args()
    shape = SHAPES[o.shape]
    layers, vocab = o.layers or shape.layers, o.vocab or shape.vocab
    o.out.mkdir(parents=True, exist_ok=True)
    special = write_tokenizer(o.out, vocab)
    ids = {"bos_token_id": special, "eos_token_id": special + 2, "pad_token_id": special}
    (o.out / "config.json").write_text(json.dumps(config(shape, layers, vocab, special), indent=1))
    (o.out / "generation_config.json").write_text(json.dumps(ids, indent=1))
    count = write_weights(o.out, list(tensors(shape, layers, vocab)), o.seed)
    print(f"{o.out}: {shape.model_type}, {layers} layers, vocabulary {vocab}, {count / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
