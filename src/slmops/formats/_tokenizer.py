"""Tokenizers as data: whatever a checkpoint carries becomes the text of a tokenizer.json, with the ids that matter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Tokenizer
from slmops.formats import _files, _sentencepiece

LIMIT = 128 << 20
"""Bytes of a tokenizer.json; Gemma's has 33 MB."""

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""transformers/models/qwen2/tokenization_qwen2.py"""


def read(folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer in this folder, or None where there is none.

    tokenizer.json stands first, then SentencePiece's tokenizer.model, then vocab.json with merges.txt (byte-level BPE).
    """
    settings = _settings(folder)
    proto: bytes | None = None
    if _files.there(folder, "tokenizer.model"):
        proto = _files.content(folder, "tokenizer.model", _sentencepiece.LIMIT)
    if _files.there(folder, "tokenizer.json"):
        text = _files.content(folder, "tokenizer.json", LIMIT)
    elif proto is not None:
        text, found = _sentencepiece.convert(proto, settings)
        settings = {**found, **settings}
    elif _files.there(folder, "vocab.json") and _files.there(folder, "merges.txt"):
        text = _byte_level(folder, settings, config)
    else:
        return None
    return finish(text, settings, config, generation, proto)


def unread(folder: Path) -> Tokenizer:
    """The text of tokenizer.json as it lies there; no text where the tokenizer is in another form."""
    there = _files.there(folder, "tokenizer.json")
    return Tokenizer(_files.content(folder, "tokenizer.json", LIMIT) if there else b"")


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; added_tokens.json goes into added_tokens_decoder."""

    def optional(name: str) -> dict[str, Any]:
        return _files.read_json(folder, name) if _files.there(folder, name) else {}

    settings = {key: value for key, value in optional("tokenizer_config.json").items() if value is not None}
    settings = {**optional("special_tokens_map.json"), **settings}
    added = settings.get("added_tokens_decoder", {})
    if not isinstance(added, dict):
        raise CorruptInput("tokenizer_config.json: added_tokens_decoder is not an object")
    table: dict[str, Any] = {}
    for added_content, added_number in optional("added_tokens.json").items():
        table[str(added_number)] = {"content": added_content}
    table.update(added)
    for number, entry in table.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not re.fullmatch("[0-9]{1,8}", number) or not isinstance(content, str) or not content:
            raise CorruptInput(f"the added token {number[:40]!r} is not an id with its content")
    return {**settings, "added_tokens_decoder": table} if table else settings


def finish(
    text: bytes,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    sentencepiece: bytes | None = None,
) -> Tokenizer:
    """Find the special ids of a tokenizer.json by asking the tokenizer itself.

    Where tokenizer_config.json says outright whether bos and eos are added (add_bos_token, add_eos_token) and
    tokenizer.json does otherwise, tokenizer.json is brought into line, as transformers does when it loads one.
    """
    document = _files.parse_json(text, "tokenizer.json", once=True)  # a library reads it too, with a parser of its own
    tokenizer = load(text, document)

    def named(key: str) -> int | None:
        value = settings.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        number: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
        return number

    bos, eos, pad = named("bos_token"), named("eos_token"), named("pad_token")
    limits = [name for name in ("truncation", "padding") if getattr(tokenizer, name) is not None]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    before, after = _added(tokenizer)
    wants_bos, wants_eos = settings.get("add_bos_token"), settings.get("add_eos_token")
    wrong_bos = isinstance(wants_bos, bool) and (bos is not None or not wants_bos) and wants_bos != (before == [bos])
    wrong_eos = isinstance(wants_eos, bool) and (eos is not None or not wants_eos) and wants_eos != (after == [eos])
    if wrong_bos or wrong_eos or limits:
        # Left behind by a trainer; transformers too encodes without them unless it is asked to.
        document.update(dict.fromkeys(limits))
        if wrong_bos or wrong_eos:
            adds_bos = wants_bos if isinstance(wants_bos, bool) else before == [bos]
            adds_eos = wants_eos if isinstance(wants_eos, bool) else after == [eos]
            document["post_processor"] = template(
                (tokenizer.id_to_token(bos), bos) if adds_bos and bos is not None else None,
                (tokenizer.id_to_token(eos), eos) if adds_eos and eos is not None else None,
            )
        text = json.dumps(document, ensure_ascii=False).encode()
        tokenizer = load(text, document)
        before, after = _added(tokenizer)
    if bos is None and len(before) == 1:
        bos = before[0]
    stops = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = [eos, *(stops if isinstance(stops, list) else [stops])]
    if pad is None:
        pads = (generation.get("pad_token_id"), config.get("pad_token_id"))
        pad = next((number for number in pads if type(number) is int and number >= 0), None)
    rows = config.get("vocab_size")
    if pad is not None and isinstance(rows, int) and pad >= rows:
        pad = None  # added for training beyond the embedding: no model was ever given it
    result = Tokenizer(
        json=text,
        config={key: value for key, value in settings.items() if key != "chat_template"},
        bos=bos,
        eos=tuple(dict.fromkeys(number for number in ids if type(number) is int)),
        pad=pad,
        adds_bos=bos is not None and before == [bos],
        sentencepiece=sentencepiece,
    )
    vars(result).update(encoder=tokenizer, parsed=document)  # the cached properties: real ones take a second to make again
    return result


def _added(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that encoding puts before and after a text, found with a probe."""
    plain, full = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (False, True))
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return [], []


def template(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> dict[str, Any]:
    """The post-processor that puts bos before and eos after a text."""

    def special(token: tuple[str, int] | None, part: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token[0], "type_id": part}}] if token else []

    def sequence(name: str, part: int) -> list[dict[str, Any]]:
        return [*special(bos, part), {"Sequence": {"id": name, "type_id": part}}, *special(eos, part)]

    tokens = [token for token in (bos, eos) if token]
    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in tokens},
    }


def load(text: bytes, document: Mapping[str, Any]) -> Any:
    """A tokenizers.Tokenizer of this text, which says `document`; CorruptInput where it makes none."""
    import tokenizers

    model = document.get("model")
    if isinstance(model, dict) and model.get("continuing_subword_prefix"):
        # The library cuts tokens at the prefix's length in bytes and ends the process where that is inside a character.
        raise Unsupported("tokenizer.json has a continuing_subword_prefix, which no family here has")
    try:
        return tokenizers.Tokenizer.from_str(text.decode())
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library panics (not an Exception) on some malformed files
        raise CorruptInput(f"tokenizer.json cannot be read: {str(error)[:200]}", "download it again") from None


def count(tokenizer: Tokenizer) -> int | None:
    """Tokens that the tokenizer can give, added ones included; the model's vocabulary may be padded beyond.

    None where the format keeps its tokenizer in a form of its own.

    Of the text itself: to have the library build the tokenizer takes three times as long.
    """
    if not tokenizer.json:
        return None
    document = tokenizer.parsed
    vocab = document["model"]["vocab"]
    tokens = set(vocab if isinstance(vocab, dict) else (piece for piece, _ in vocab))
    return len(tokens | {entry["content"] for entry in document.get("added_tokens") or ()})


def _byte_level(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> bytes:
    """vocab.json and merges.txt -> tokenizer.json, for the classes whose way to split words is known."""
    name = str(settings.get("tokenizer_class") or {"qwen3": "Qwen2Tokenizer"}.get(str(config.get("model_type")), ""))
    kind = name.removesuffix("Fast")
    if kind not in ("Qwen2Tokenizer", "GPT2Tokenizer"):
        raise Unsupported(
            f"vocab.json and merges.txt alone do not say how {name or 'this tokenizer'} splits words",
            "add tokenizer.json: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) in transformers",
        )
    vocab = _files.read_json(folder, "vocab.json", 32 << 20)
    try:
        lines = _files.content(folder, "merges.txt", 32 << 20).decode().splitlines()
    except UnicodeDecodeError:
        raise CorruptInput("merges.txt is not UTF-8 text", "download it again") from None
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in merges):
        raise CorruptInput("merges.txt has a line that is not two tokens", "download it again")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    qwen = kind == "Qwen2Tokenizer"
    split = {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    words = {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}
    tokens = {number: content for content, number in vocab.items()}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(settings, tokens, {}),
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": words if qwen else {**byte_level, "use_regex": True},
        "post_processor": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


added_tokens = _sentencepiece.added_tokens
