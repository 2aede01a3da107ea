"""SentencePiece's tokenizer.model -> the text of an equivalent tokenizer.json, without the sentencepiece library.

The file is a protocol buffer: sentencepiece/src/sentencepiece_model.proto. The conversion follows
transformers/convert_slow_tokenizer.py (LlamaConverter), and also does what SentencePiece's normalizer does with extra
blanks (sentencepiece/src/normalizer.cc).
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported

LIMIT = 32 << 20
LONGEST_PIECE = 512
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
BLANK = "▁"


@dataclass
class Proto:
    """The fields of a ModelProto that encoding depends on, with the defaults of sentencepiece_model.proto."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """(text, score, kind), in order of id."""
    model: int = UNIGRAM
    byte_fallback: bool = False
    blank_as_suffix: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_blanks: bool = True
    escape_blanks: bool = True


def parse(data: bytes) -> Proto:
    """Raises CorruptInput on anything that is not a ModelProto."""
    proto = Proto()
    try:
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                text = _bytes(piece.get(1, b"")).decode()
                (score,) = struct.unpack("<f", _bytes(piece.get(2, b"\0\0\0\0")))
                proto.pieces.append((text, score, _int(piece.get(3, NORMAL))))
            elif number == 2:
                trainer = dict(_fields(_bytes(value)))
                proto.model = _int(trainer.get(3, UNIGRAM))
                proto.byte_fallback = bool(trainer.get(35, False))
                proto.blank_as_suffix = bool(trainer.get(24, False))
                for name, key in (("unk", 40), ("bos", 41), ("eos", 42), ("pad", 43)):
                    proto.ids[name] = _signed(_int(trainer.get(key, proto.ids[name])))
            elif number == 3:
                normalizer = dict(_fields(_bytes(value)))
                proto.charsmap = _bytes(normalizer.get(2, b""))
                proto.dummy_prefix = bool(normalizer.get(3, True))
                proto.remove_extra_blanks = bool(normalizer.get(4, True))
                proto.escape_blanks = bool(normalizer.get(5, True))
    except (ValueError, struct.error, IndexError):  # UnicodeDecodeError is a ValueError
        raise CorruptInput("tokenizer.model is not a SentencePiece model", "download it again") from None
    if not proto.pieces or max(len(text) for text, _, _ in proto.pieces) > LONGEST_PIECE:
        raise CorruptInput("tokenizer.model has no pieces, or absurdly long ones", "download it again")
    return proto


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: integers for varints, bytes for the rest (protobuf.dev, Encoding)."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("varint too long")

    while position < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("no such wire type")
        length = varint() if kind == 2 else 8 if kind == 1 else 4
        if length > len(data) - position:
            raise ValueError("truncated")
        yield key >> 3, data[position : position + length]
        position += length


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("expected bytes")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("expected a number")
    return value


def _signed(value: int) -> int:
    """int32 as varint: negative numbers are written as 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def convert(data: bytes, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """tokenizer.json's text, and the settings that tokenizer.model itself knows (bos_token, ..., add_bos_token)."""
    return document(parse(data), settings)


def document(proto: Proto, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The same from the fields: GGUF carries them too."""
    if proto.model not in (UNIGRAM, BPE) or proto.blank_as_suffix or not proto.escape_blanks:
        raise Unsupported(
            "tokenizer.model is of a SentencePiece kind that has no tokenizer.json (word, char, or blanks as suffix)",
            "add tokenizer.json: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) in transformers",
        )
    if any(kind == UNUSED for _, _, kind in proto.pieces):
        raise Unsupported(
            "tokenizer.model marks pieces as unused, which tokenizer.json cannot express", "add tokenizer.json"
        )
    tokens = {number: text for number, (text, _, _) in enumerate(proto.pieces)}
    found: dict[str, Any] = {f"{name}_token": tokens[n] for name, n in proto.ids.items() if n in tokens}
    # LlamaTokenizer's default, and llama.cpp's for every SentencePiece model.
    found["add_bos_token"] = "bos_token" in found
    kinds = {number: kind for number, (_, _, kind) in enumerate(proto.pieces) if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
    added = added_tokens(settings, tokens, kinds)
    first_only = settings.get("legacy") is False and proto.dummy_prefix
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto, first_only)},
        "pre_tokenizer": {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": False}
        if first_only
        else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(proto)},
        "model": _bpe(proto, tokens) if proto.model == BPE else _unigram(proto, tokens),
    }
    return json.dumps(content, ensure_ascii=False).encode(), found


def added_tokens(settings: Mapping[str, Any], tokens: dict[int, str], kinds: Mapping[int, int]) -> list[dict[str, Any]]:
    """Entries of tokenizer.json's added_tokens: the pieces of these kinds, and tokenizer_config.json's own.

    A token that tokenizer_config.json puts on a piece's id renames the piece in `tokens`, as in transformers.
    """
    result: dict[int, dict[str, Any]] = {}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for number, kind in kinds.items():
        result[number] = {"id": number, "content": tokens[number], **plain, "special": kind != USER_DEFINED}
    for key, entry in settings.get("added_tokens_decoder", {}).items():
        number = int(key)
        flags = {name: bool(entry.get(name, default)) for name, default in plain.items()}
        result[number] = {"id": number, "content": entry["content"], **flags}
        if number in tokens:
            tokens[number] = entry["content"]
    beyond = [number for number in sorted(result) if number not in tokens]
    if beyond and beyond[-1] - max(tokens) > 1 << 20:
        raise CorruptInput(f"the added token {beyond[-1]} lies far beyond the vocabulary of {len(tokens)}")
    if beyond != list(range(max(tokens) + 1, max(tokens) + 1 + len(beyond))):
        # The library numbers added tokens itself, one after the other: with gaps they must stand in the vocabulary.
        tokens.update({number: result[number]["content"] for number in beyond})
    return [result[number] for number in sorted(result)]


def _normalizers(proto: Proto, first_only: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []

    def replace(pattern: dict[str, str], content: str) -> None:
        steps.append({"type": "Replace", "pattern": pattern, "content": content})

    if proto.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(proto.charsmap).decode()})
    if proto.remove_extra_blanks:
        replace({"Regex": r"\A +"}, "")
        replace({"Regex": " {2,}"}, " ")
    if proto.dummy_prefix and not first_only:
        steps.append({"type": "Prepend", "prepend": BLANK})
    replace({"String": " "}, BLANK)
    if proto.remove_extra_blanks:
        replace({"Regex": BLANK + r"+\z"}, "")
    return steps


def _decoders(proto: Proto) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}]
    if proto.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if proto.dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _bpe(proto: Proto, tokens: Mapping[int, str]) -> dict[str, Any]:
    """Every way to put a piece together from two pieces is a merge; the piece's score is its rank."""
    scores = {text: score for text, score, kind in proto.pieces if kind in (NORMAL, USER_DEFINED)}
    numbers = {text: number for number, (text, _, _) in enumerate(proto.pieces)}
    ranked: list[tuple[float, int, int, int, str, str]] = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, numbers[piece], numbers[left], numbers[right], left, right))
    ranked.sort()
    vocab = {text: number for number, text in tokens.items()}
    if len(vocab) != len(tokens):
        raise CorruptInput("two tokens of tokenizer.model have the same text", "download it again")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokens.get(proto.ids["unk"]),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": proto.byte_fallback,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [[left, right] for *_, left, right in ranked],
    }


def _unigram(proto: Proto, tokens: Mapping[int, str]) -> dict[str, Any]:
    vocab = [[tokens[number], score] for number, (_, score, _) in enumerate(proto.pieces)]
    vocab += [[tokens[number], 0.0] for number in sorted(tokens) if number >= len(vocab)]
    unk = proto.ids["unk"]
    return {"type": "Unigram", "unk_id": unk if unk >= 0 else None, "vocab": vocab, "byte_fallback": proto.byte_fallback}
