"""The sample model's own byte-level BPE vocabulary, with exactly Qwen2's pre-tokenizer.

Merges of letters are learnt from the words of the templates only, never from slot values, and a space never joins a
word: whatever is said falls into the same pieces in the request and in the JSON string, at its start and inside, so
copying it is a copy of tokens. What stands around values in every answer is one added token each: JSON's skeleton would
be half of an answer's tokens otherwise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import corpus
import slots
from corpus import TOOLS, all_templates

VOCABULARY, CONTEXT = 1536, 512
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
JSON = ['{"tool": "', '", "arguments": {"', '": "', '": ', '", "', ', "', '"}}', "}}"]
"""The skeleton of an answer: added tokens that are not special, so that decoding keeps them."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {b: chr(b) for b in visible}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTES = byte_alphabet()


def as_bytes_text(text: str) -> str:
    return "".join(BYTES[b] for b in text.encode())


def closed_words() -> Counter[str]:
    """Words of templates, tool names, argument names and closed sets, weighted by how many texts hold them."""
    texts: list[str] = []
    for template in all_templates():
        if template.split == "train":
            texts += [corpus._SLOT.sub(" , ", re.sub(r"[\[\]|]", " ", template.words))] * 3
    texts += corpus.OPENERS + corpus.GREETINGS + corpus.CLOSERS + [corpus.SYSTEM, "user assistant system"] * 4
    for closed in (
        slots.ROOMS,
        slots.DEVICES,
        slots.COLORS,
        slots.DOORS,
        slots.SCENES,
        slots.MODES,
        slots.SENSORS,
        slots.ZONES,
        slots.WEEKDAYS,
        slots.PROGRAMS,
        list(slots.NUMBER_WORDS.values()),
    ):
        texts += closed * 4
    texts += [day.capitalize() for day in slots.WEEKDAYS] * 4
    texts += [
        (
            "am pm noon midnight o'clock half past quarter in the morning in the evening minutes min hour hours "
            "an a percent degrees celsius today tomorrow this weekend every day daily on weekdays weekends once dozen "
            "couple of true false unsupported missing lock unlock locked unlocked home none reason tool arguments"
        )
    ] * 4
    for tool, arguments in TOOLS.items():
        texts += [tool.replace("_", " "), *arguments] * 4
    words = Counter(word for text in texts for word in re.findall(r"[A-Za-z]+", text))
    for text in {_first_word(t) for t in texts if t.strip(" ,")}:
        words[text.capitalize()] += 3
    return words


def _first_word(text: str) -> str:
    return re.findall(r"[A-Za-z]+", text)[0]


def learn_letter_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Plain BPE training over bare words; ties go to the pair that sorts first, so the result is fixed."""
    pieces = {word: list(word) for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = _apply(parts, best)


def _apply(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] = out[-1] + part
        else:
            out.append(part)
    return out


def choose_merges(size: int) -> list[tuple[str, str]]:
    """As many merges of letters as fit, then `_` before the tails of the tools' names."""
    letters = learn_letter_merges(closed_words())
    tails = sorted({part for tool in TOOLS for part in tool.split("_")[1:]})
    for count in range(len(letters) + 1):
        merges = letters[:count]
        known = {a + b for a, b in merges}
        merges += [("_", tail) for tail in tails if tail in known]
        room = size - 256 - len(JSON) - len(SPECIALS)
        if len({a + b for a, b in merges}) >= room:
            while len({a + b for a, b in merges}) > room:
                merges.pop()
            return merges
    raise ValueError(f"the templates have too few words for {size} entries")


def added(size: int) -> dict[int, dict[str, object]]:
    """The last ids: JSON's skeleton, then the special tokens."""
    first = size - len(JSON) - len(SPECIALS)
    return {
        first + i: {
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in SPECIALS,
        }
        for i, token in enumerate([*JSON, *SPECIALS])
    }


def build(size: int) -> dict[str, object]:
    """tokenizer.json as a dictionary with exactly `size` entries."""
    merges = choose_merges(size)
    vocab = {BYTES[b]: i for i, b in enumerate(sorted(BYTES, key=lambda b: (len(BYTES[b].encode()) > 1, BYTES[b])))}
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **entry} for number, entry in added(size).items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT_REGEX}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [f"{a} {b}" for a, b in merges],
        },
    }


def config(context: int, size: int) -> dict[str, object]:
    """tokenizer_config.json in the form of Qwen2's own."""
    decoder = {str(number): entry for number, entry in added(size).items()}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": SPECIALS[1:],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIALS[2],
        "errors": "replace",
        "model_max_length": context,
        "pad_token": SPECIALS[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write(folder: Path, size: int = VOCABULARY, context: int = CONTEXT) -> None:
    files = {"tokenizer.json": build(size), "tokenizer_config.json": config(context, size)}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
