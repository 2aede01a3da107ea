"""GGUF files that others made: the header's metadata -> config.json and tokenizer.json, as the model's source had them.

Keys: gguf-py/gguf/constants.py. What the metadata does not say (rope scaling of Llama 3 is only there as a tensor of
divisors) is found out from the tensors, or refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from slmops.core import plugins
from slmops.core.errors import CorruptInput, UnknownFamily, Unsupported
from slmops.core.model import Tokenizer
from slmops.core.spec import Rope
from slmops.core.tensor import Floats
from slmops.formats import _gguf_container as container
from slmops.formats import _gguf_tokenizer as writer
from slmops.formats import _sentencepiece, _tokenizer
from slmops.formats._gguf_container import Container

LLAMA3: tuple[dict[str, Any], ...] = tuple(
    {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192}
    for factor in (8.0, 32.0)
)  # fmt: skip
"""Scalings of the published Llamas: 3.1 has the factor 8, 3.2 has 32."""
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"


class _Metadata:
    """Typed access to the header's entries; what is absent or of another type is a CorruptInput."""

    def __init__(self, held: Container) -> None:
        self._entries, self._file = held.metadata, held.path.name
        self.architecture = str(self._get("general.architecture"))

    def _get(self, key: str) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            raise CorruptInput(f"{self._file} has no {key} in its metadata", "download it again")
        return entry.value

    def own(self, key: str, default: Any = None) -> Any:
        """A number of the architecture's own section; without a default it must be there."""
        name = f"{self.architecture}.{key}"
        value = self._get(name) if default is None else self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CorruptInput(f"{self._file}: {name} is {str(value)[:60]!r}, not a number")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self._entries[key].value if key in self._entries else default

    def whole(self, key: str) -> int | None:
        """A whole number, or None where there is none."""
        value = self.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CorruptInput(f"{self._file}: {key} is {str(value)[:60]!r}, not a whole number")
        return value

    def array(self, key: str, kinds: str) -> Any:
        """An array of numbers of these numpy kinds (`iu`: whole ones), or None where there is none."""
        value = self.get(key)
        if value is not None and (not isinstance(value, np.ndarray) or value.dtype.kind not in kinds):
            raise CorruptInput(f"{self._file}: {key} is no array of {'whole ' if kinds == 'iu' else ''}numbers")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._get(key)
        if not isinstance(value, list):
            raise CorruptInput(f"{self._file}: {key} is no list of texts")
        return value


def config(held: Container, divisors: Mapping[str, Floats]) -> dict[str, Any]:
    """config.json of the source, as far as a program needs it; what only its family has, the family's file adds.

    divisors: the small tensors of rope_freqs or rope_factors by their names, those that there are.
    """
    metadata = _Metadata(held)
    family = _family(metadata.architecture)
    hidden, heads = metadata.own("embedding_length"), metadata.own("attention.head_count")
    head_dim = metadata.own("attention.key_length", hidden // max(heads, 1))
    if "token_embd.weight" not in held.tensors:
        raise CorruptInput(f"{held.path.name} has no tensor token_embd.weight", "download it again")
    result = {
        "model_type": family,
        "vocab_size": held.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.own("feed_forward_length"),
        "num_hidden_layers": metadata.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.own("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.own("context_length"),
        "rms_norm_eps": _short(metadata.own("attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(metadata.own("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in held.tensors,
        "attention_bias": "blk.0.attn_q.bias" in held.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in held.tensors,
    }
    turned, window = metadata.own("rope.dimension_count", head_dim), metadata.own("attention.sliding_window", 0)
    if turned != head_dim and head_dim > 0:
        result["partial_rotary_factor"] = turned / head_dim
    if window:
        result["sliding_window"] = window
    if SHORT in divisors and LONG in divisors:
        result["original_max_position_embeddings"] = metadata.own("rope.scaling.original_context_length")
        scaling = {"rope_type": "longrope", "short_factor": divisors[SHORT].tolist(), "long_factor": divisors[LONG].tolist()}
        factor = metadata.own("rope.scaling.attn_factor", 0.0)
        result["rope_scaling"] = {**scaling, "attention_factor": _short(factor)} if factor else scaling
    else:
        plain = Rope(int(turned), float(result["rope_theta"]))
        result["rope_scaling"] = _scaling(metadata, divisors.get("rope_freqs.weight"), plain)
    own = getattr(plugins.load("architectures", family), "gguf_config", dict)
    return {**result, **own(result)}


def _family(architecture: str) -> str:
    """The family whose file says that llama.cpp calls it so; of several (llama, mistral) the one of the same name."""
    found = [name for name in plugins.names("architectures") if architecture == plugins.load("architectures", name).GGUF]
    if not found:
        raise UnknownFamily(
            f"this GGUF is of the architecture {architecture[:60]!r}",
            f"known families: {', '.join(plugins.names('architectures'))}",
        )
    return architecture if architecture in found else found[0]


def _short(number: float) -> float:
    """The shortest decimal that is this f32: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(number)))


def _scaling(metadata: _Metadata, divisors: Floats | None, plain: Rope) -> dict[str, Any] | None:
    kind = metadata.get(f"{metadata.architecture}.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": metadata.own("rope.scaling.factor")}
    if kind not in ("none", ""):
        raise Unsupported(f"rope scaling {kind!r} is not done yet", "give the Hugging Face checkpoint")
    if divisors is None or (divisors == 1).all():
        return None
    for known in LLAMA3:
        rope = replace(
            plain, scaling="llama3", factor=known["factor"], low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
        )
        if divisors.shape == rope.divisors().shape and np.allclose(divisors, rope.divisors(), rtol=1e-5):
            return dict(known)
    raise Unsupported("rope_freqs.weight scales as no published Llama does", "give the Hugging Face checkpoint")


def tokenizer(held: Container) -> Tokenizer:
    """tokenizer.json and the special ids. Raises Unsupported for a splitting whose expressions are not known."""
    metadata = _Metadata(held)
    kind = metadata.get("tokenizer.ggml.model")
    tokens, types = metadata.texts("tokenizer.ggml.tokens"), metadata.array("tokenizer.ggml.token_type", "iu")
    kinds = [writer.NORMAL] * len(tokens) if types is None else types.tolist()
    if len(kinds) != len(tokens):
        raise CorruptInput(f"{held.path.name} has {len(tokens):,} tokens and {len(kinds):,} types of them")
    if kind == "gpt2":
        text = _byte_level(metadata, tokens, kinds)
    elif kind == "llama":
        text = _scored(metadata, tokens, kinds)
    else:
        raise Unsupported(f"a GGUF's tokenizer of the kind {str(kind)[:40]!r} cannot be read", "give the source's folder")
    return _finished(metadata, text, tokens)


def _finished(metadata: _Metadata, text: bytes, tokens: list[str]) -> Tokenizer:
    def named(key: str) -> str | None:
        number = metadata.whole(f"tokenizer.ggml.{key}_token_id")
        return None if number is None or not 0 <= number < len(tokens) else tokens[number]

    adds = metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama")
    pairs = (("bos_token", named("bos")), ("eos_token", named("eos")), ("pad_token", named("padding")))
    settings: dict[str, Any] = {name: token for name, token in pairs if token is not None}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(adds),
        "add_eos_token": bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
    }
    keys = (f"tokenizer.ggml.{key}_token_id" for key in ("eos", "eot", "eom"))
    ends = list(dict.fromkeys(number for number in map(metadata.whole, keys) if number is not None))
    return _tokenizer.finish(text, settings, {"vocab_size": len(tokens)}, {"eos_token_id": ends})


def _byte_level(metadata: _Metadata, tokens: list[str], kinds: list[int]) -> bytes:
    name = metadata.get("tokenizer.ggml.pre", "default")
    known = {label: (expressions, label == ignoring) for expressions, names in writer.PRE.items()
             for ignoring in names[1:] for label in names if label}  # fmt: skip
    known |= {"default": known["gpt-2"]} | {alias: known[label] for alias, label in ALIASES.items()}
    if name not in known:
        raise Unsupported(
            f"llama.cpp's pre-tokenizer {str(name)[:60]!r} is not known here",
            "give the source's folder: it says how it splits words",
        )
    expressions, ignores = known[name]
    added = [number for number, kind in enumerate(kinds) if kind in (writer.CONTROL, writer.USER_DEFINED)]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": tokens[number], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": kinds[number] == writer.CONTROL}
            for number in added
        ],
        "normalizer": {"type": "NFC"} if metadata.get(writer.NORMALIZER) == "NFC" or name in COMPOSED else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
                  for expression in expressions),
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignores,
            "vocab": {token: number for number, token in enumerate(tokens) if kinds[number] != writer.UNUSED},
            "merges": metadata.texts("tokenizer.ggml.merges"),
        },
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False).encode()


ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "gpt2": "gpt-2", "smollm3": "llama-bpe"}
"""Other names of the same splitting (llama-vocab.cpp, llama_vocab::impl::load)."""
COMPOSED = {"qwen2", "qwen35"}
"""Pre-tokenizers whose sources all compose Unicode (NFC) first; GGUF does not say so."""


def _scored(metadata: _Metadata, tokens: list[str], kinds: list[int]) -> bytes:
    """SentencePiece's BPE: pieces, scores and kinds are those of tokenizer.model."""
    scores = metadata.array("tokenizer.ggml.scores", "iuf")
    if scores is None or len(scores) != len(tokens):
        raise CorruptInput("the tokenizer has no score for every token", "download it again")
    proto = _sentencepiece.Proto(
        pieces=[(text, float(score), kind) for text, score, kind in zip(tokens, scores, kinds, strict=True)],
        model=_sentencepiece.BPE,
        byte_fallback=writer.BYTE in kinds,
        dummy_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        remove_extra_blanks=False,
    )
    proto.ids = {
        name: -1 if (number := metadata.whole(f"tokenizer.ggml.{key}_token_id")) is None else number
        for name, key in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    unused = [number for number, kind in enumerate(kinds) if kind == writer.UNUSED]
    for number in unused:  # rows without a token, which converters name [PAD n]
        text, score, _ = proto.pieces[number]
        proto.pieces[number] = (text, score, writer.USER_DEFINED)
    return _sentencepiece.document(proto, {})[0]


def chat_template(held: Container) -> str | None:
    entry = held.metadata.get("tokenizer.chat_template")
    return str(entry.value) if entry is not None and entry.kind == container.STRING else None


def licence(held: Container) -> str | None:
    entry = held.metadata.get("general.license")
    return str(entry.value)[:200] if entry is not None and entry.kind == container.STRING else None
