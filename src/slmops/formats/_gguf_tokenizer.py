"""A Hugging Face tokenizer.json as GGUF metadata, for the two kinds that llama.cpp runs natively.

`gpt2`: byte-level BPE with merges; llama.cpp knows pre-tokenizers by name only, so the splitting in the tokenizer.json is
looked up in the table below. `llama`: SentencePiece-like BPE with byte fallback; llama.cpp merges by score, so the order of
the merges becomes scores. What cannot be said exactly is refused, never guessed.
Source: llama.cpp, src/llama-vocab.cpp (llm_tokenizer_bpe, llm_tokenizer_spm, llama_vocab::impl::load).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Model
from slmops.formats import _gguf_container as gguf
from slmops.formats import _tokenizer

OTHERS = "use another format: onnx, openvino, mlx or compressed-tensors"

NORMALIZER = "slmops.normalizer"
"""Entry of our own: what the source's tokenizer does to a text first, and llama.cpp does not. The engines here read it."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS = r"\p{N}"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|"
_TEKKEN = _WORD % ("", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_GPT4O = _WORD % (_CONTRACTIONS + "?", _CONTRACTIONS + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_SEED = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES
)

PRE: dict[tuple[str, ...], tuple[str, str]] = {
    (_GPT2,): ("gpt-2", ""),
    (_DIGITS, _GPT2): ("smollm", ""),
    (_LLAMA3,): ("smaug-bpe", "llama-bpe"),
    (_QWEN2,): ("qwen2", ""),
    (_QWEN35,): ("qwen35", ""),
    (_TEKKEN,): ("", "tekken"),
    (_GPT4O,): ("gpt-4o", ""),
    (_SEED,): ("seed-coder", ""),
    (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3): ("deepseek-v3", ""),
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGITS): ("deepseek-coder", ""),
}
"""Regular expressions that split one after the other -> llama.cpp's name of them, (merging always, ignore_merges)."""


@dataclass(frozen=True)
class Metadata:
    """`tokenizer.*` entries, and what a user should know about them."""

    entries: dict[str, gguf.Value]
    texts: Mapping[int, str]
    """Of bos and of every id that ends a generation."""
    notes: tuple[str, ...]


def metadata(model: Model) -> Metadata:
    """The tokenizer's entries. Raises Unsupported with a cure where llama.cpp would split text differently."""
    try:
        data = model.tokenizer.parsed
        kind = data["model"].get("type", "BPE")
        vocab = {str(text): int(number) for text, number in data["model"]["vocab"].items()} if kind == "BPE" else {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptInput(f"tokenizer.json cannot be read: {error!r}"[:200], "download it again") from None
    if kind != "BPE":
        raise Unsupported(f"GGUF export knows BPE tokenizers; this one is {kind}", OTHERS)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if data["model"].get(key):
            raise Unsupported(f"llama.cpp has no {key} in its BPE, and this tokenizer.json has", OTHERS)
    added = {int(item["id"]): item for item in data.get("added_tokens") or []}
    notes: list[str] = []
    spaced = [str(item["content"]) for item in added.values() if item.get("lstrip") or item.get("rstrip")]
    if spaced:
        notes.append(f"llama.cpp keeps white space beside the {len(spaced)} special tokens that swallow it ({spaced[0]}...)")
    if data["model"].get("byte_fallback"):
        entries = _sentencepiece(data, vocab, added, model, notes)
    else:
        entries = _byte_level(data, vocab, added, model, notes)
    tokens = entries["tokenizer.ggml.tokens"].value
    texts = {number: tokens[number] for number in (model.tokenizer.bos, *model.tokenizer.eos) if number is not None}
    return Metadata({**entries, **_special(model)}, texts, tuple(notes))


def _byte_level(
    data: Mapping[str, Any], vocab: Mapping[str, int], added: Mapping[int, Any], model: Model, notes: list[str]
) -> dict[str, gguf.Value]:
    name = pre_tokenizer(data, notes)
    tokens, types = _tokens(vocab, added, model, notes)
    composes = {NORMALIZER: gguf.string("NFC")} if (data.get("normalizer") or {}).get("type") else {}
    return {
        **composes,
        "tokenizer.ggml.model": gguf.string("gpt2"),
        "tokenizer.ggml.pre": gguf.string(name),
        "tokenizer.ggml.tokens": gguf.strings(tokens),
        "tokenizer.ggml.token_type": gguf.Value(gguf.ARRAY, types, gguf.I32),
        "tokenizer.ggml.merges": gguf.strings(_merges(data)),
    }


def _merges(data: Mapping[str, Any]) -> list[str]:
    """Merges in order, as "a b"; tokenizer.json also spells them ["a", "b"]."""
    result = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    for merge in result:
        if merge.count(" ") != 1 or merge[0] == " " or merge[-1] == " ":
            raise Unsupported(f"the merge {merge!r} of tokenizer.json cannot be written to GGUF", OTHERS)
    return result


def pre_tokenizer(data: Mapping[str, Any], notes: list[str]) -> str:
    """llama.cpp's name of the splitting in a tokenizer.json."""
    normalizer = data.get("normalizer") or {}
    for step in normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]:
        if step.get("type") == "NFC":
            notes.append(
                "llama.cpp does not compose Unicode (NFC), as this tokenizer does. slmops does it first; elsewhere "
                "letters with separate accents become other tokens"
            )
        elif step:
            raise Unsupported(f"llama.cpp does not change text, and this tokenizer does ({step.get('type')})", OTHERS)
    expressions = tuple(_expressions(data.get("pre_tokenizer")))
    if expressions not in PRE:
        shown = " then ".join(expressions) if len(expressions) < 4 else f"{len(expressions)} expressions"
        raise Unsupported(
            f"llama.cpp has no name for this tokenizer's splitting: {shown[:300]}",
            "use another format (onnx, openvino, mlx), or a checkpoint whose tokenizer llama.cpp knows",
        )
    merging, ignoring = PRE[expressions]
    wanted, other = (ignoring, merging) if data["model"].get("ignore_merges") else (merging, ignoring)
    if not wanted and not _reachable(data):
        raise Unsupported(
            f"llama.cpp's pre-tokenizer {other} handles whole words of the vocabulary differently (ignore_merges)",
            OTHERS,
        )
    return wanted or other


def _expressions(pre: Any) -> list[str]:
    """The splitting of a byte-level tokenizer as regular expressions, one after the other."""
    stages = pre.get("pretokenizers", []) if pre and pre.get("type") == "Sequence" else [pre] if pre else []
    if not stages or stages[-1].get("type") != "ByteLevel":
        raise Unsupported("this tokenizer is BPE but neither byte-level nor with byte fallback", OTHERS)
    result = []
    for stage in stages:
        kind = stage.get("type")
        if kind == "ByteLevel" and stage is stages[-1]:
            if stage.get("add_prefix_space"):
                raise Unsupported("llama.cpp cannot put a space before the text of a byte-level tokenizer", OTHERS)
            if stage.get("use_regex", True):
                result.append(_GPT2)
        elif kind == "Digits" and stage.get("individual_digits"):
            result.append(_DIGITS)
        elif kind == "Split" and stage.get("behavior") == "Isolated" and not stage.get("invert"):
            pattern = stage["pattern"]
            text = pattern.get("Regex")
            if text is None:
                raise Unsupported(f"llama.cpp cannot split at {pattern!r}", OTHERS)
            result.append(text.replace("\r", r"\r").replace("\n", r"\n"))
        elif kind == "Split" and stage.get("behavior") == "Removed" and stage.get("invert"):
            # What the expression matches is kept, the rest dropped: the same pieces, where it matches everything.
            result.append(stage["pattern"].get("Regex", "").replace("\r", r"\r").replace("\n", r"\n"))
        else:
            raise Unsupported(f"llama.cpp has nothing like this tokenizer's {kind} splitting", OTHERS)
    return result


def _reachable(data: Mapping[str, Any]) -> bool:
    """Whether merging alone makes every word of the vocabulary, so that ignore_merges makes no difference."""
    bare = {"version": "1.0", "added_tokens": [], "model": {**data["model"], "ignore_merges": False}}
    tokenizer = _tokenizer.load(json.dumps(bare).encode(), bare)
    words = list(data["model"]["vocab"])
    return all(len(encoding.ids) == 1 for encoding in tokenizer.encode_batch(words, add_special_tokens=False))


def _sentencepiece(
    data: Mapping[str, Any], vocab: Mapping[str, int], added: Mapping[int, Any], model: Model, notes: list[str]
) -> dict[str, gguf.Value]:
    prefix = _space_prefix(data, model, notes)
    tokens, types = _tokens(vocab, added, model, notes)
    unknown = data["model"].get("unk_token")
    scores = _scores(data, vocab)
    for text, number in vocab.items():
        if number >= len(tokens):
            continue
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[number] = BYTE
        elif text == unknown:
            types[number] = UNKNOWN
    entries = {
        "tokenizer.ggml.model": gguf.string("llama"),
        "tokenizer.ggml.pre": gguf.string("default"),
        "tokenizer.ggml.tokens": gguf.strings(tokens),
        "tokenizer.ggml.scores": gguf.Value(gguf.ARRAY, [scores.get(text, -1e6) for text in tokens], gguf.F32),
        "tokenizer.ggml.token_type": gguf.Value(gguf.ARRAY, types, gguf.I32),
        "tokenizer.ggml.add_space_prefix": gguf.boolean(prefix),
    }
    if unknown in vocab:
        entries["tokenizer.ggml.unknown_token_id"] = gguf.u32(vocab[unknown])
    return entries


def _space_prefix(data: Mapping[str, Any], model: Model, notes: list[str]) -> bool:
    """Whether a text begins with a space of its own. Everything else that would change the text is refused."""
    normalizer, pre = data.get("normalizer"), data.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    prefix = False
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend") == "▁":
            prefix = True
        elif not (step.get("type") == "Replace" and step["pattern"] == {"String": " "} and step["content"] == "▁"):
            raise Unsupported(f"llama.cpp does not change text, and this tokenizer does ({step.get('type')})", OTHERS)
    if pre and pre.get("type") == "Metaspace":
        scheme = pre.get("prepend_scheme", "always" if pre.get("add_prefix_space", True) else "never")
        if scheme == "first":
            # llama.cpp would put a space after every special token. In a chat the text begins with one, so there no
            # prefix is right; without a template the text is plain, and there the prefix is.
            prefix = model.chat_template is None
            where = "after a special token" if prefix else "that does not begin with a special token"
            notes.append(f"llama.cpp tokenizes text {where} with one space {'more' if prefix else 'less'}")
        else:
            prefix = scheme == "always"
    elif pre and not (pre.get("type") == "Split" and pre.get("pattern") == {"String": " "}):
        raise Unsupported(f"llama.cpp has nothing like this tokenizer's {pre.get('type')} splitting", OTHERS)
    return prefix


def _scores(data: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[str, float]:
    """Token -> score, such that "best score first" merges in the order of the merges.

    Exact when all merges that make one token stand together, and every way to cut a token into two tokens is a merge: that
    is how merges are made from a SentencePiece model. Anything else is refused.
    """
    scores: dict[str, float] = {}
    last = None
    pairs = set()
    for merge in _merges(data):
        first, _, second = merge.partition(" ")
        token = first + second
        pairs.add((first, second))
        if token != last and token in scores:
            raise Unsupported(
                f"llama.cpp merges by score, and the merges that make {token!r} do not stand together",
                OTHERS,
            )
        if token != last:
            scores[token] = -float(len(scores))
        last = token
    for token in scores:
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair not in pairs and pair[0] in vocab and pair[1] in vocab:
                raise Unsupported(
                    f"llama.cpp would merge {pair[0]!r} and {pair[1]!r}, which this tokenizer does not",
                    OTHERS,
                )
    return scores


def _tokens(
    vocab: Mapping[str, int], added: Mapping[int, Any], model: Model, notes: list[str]
) -> tuple[list[str], list[int]]:
    """Texts and types of every row of the embedding; rows without a token are called [PAD n], as upstream does."""
    rows = model.spec.vocab
    texts: list[str | None] = [None] * rows
    types = [UNUSED] * rows
    beyond = 0
    for text, number in [*vocab.items(), *((str(item["content"]), number) for number, item in added.items())]:
        if not 0 <= number < rows:
            beyond += 1
            continue
        texts[number], types[number] = text, NORMAL
    for number, item in added.items():
        if number < rows:
            types[number] = CONTROL if item.get("special") else USER_DEFINED
    if beyond:
        notes.append(f"{beyond} tokens left out: the embedding has no row for them")
    tokens = [text if text is not None else f"[PAD{number}]" for number, text in enumerate(texts)]
    if len(set(tokens)) != rows:
        twice = Counter(tokens).most_common(1)[0][0]
        raise Unsupported(f"the tokenizer has two tokens {twice!r}, which llama.cpp refuses", "repair tokenizer.json")
    return tokens, types


def _special(model: Model) -> dict[str, gguf.Value]:
    """Ids that mean something. llama.cpp ends a generation at eos, eot and eom, and at names that it knows."""
    tokenizer = model.tokenizer
    result: dict[str, gguf.Value] = {}
    bos = tokenizer.bos if tokenizer.bos is not None else model.config.get("bos_token_id")
    if not isinstance(bos, int) or not 0 <= bos < model.spec.vocab:
        # Never added to a text; but without an entry llama.cpp takes a token of its own for it.
        bos = tokenizer.eos[0] if tokenizer.eos else None
    if bos is not None:
        result["tokenizer.ggml.bos_token_id"] = gguf.u32(bos)
    for key, number in zip(("eos", "eot", "eom"), tokenizer.eos, strict=False):
        result[f"tokenizer.ggml.{key}_token_id"] = gguf.u32(number)
    if tokenizer.pad is not None:
        result["tokenizer.ggml.padding_token_id"] = gguf.u32(tokenizer.pad)
    result["tokenizer.ggml.add_bos_token"] = gguf.boolean(tokenizer.adds_bos)
    result["tokenizer.ggml.add_eos_token"] = gguf.boolean(False)
    if model.chat_template is not None:
        result["tokenizer.chat_template"] = gguf.string(model.chat_template)
    return result
