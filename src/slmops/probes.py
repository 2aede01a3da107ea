"""What an engine must tokenize and render exactly as the source does: a fixed corpus, and its truth for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slmops.core import chat
from slmops.core.errors import CorruptInput
from slmops.core.model import Model
from slmops.core.model import Tokenizer as TokenizerData

TEXTS = (
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "turn the kitchen light to 30 % please",
    '{"tool": "set_light", "arguments": {"room": "kitchen", "level": 30}}',
    " leading space",
    "trailing space ",
    "two  spaces,   three,    four",
    "tab\tand\ttabs\t\t.",
    "line\nbreaks\n\nand more\n\n\nof them\r\nwindows",
    "I'll we've they're don't IT'S can't",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F",
    "def f(x):\n    return x ** 2  # square\n",
    "https://example.org/path?query=1&other=%20two#fragment",
    "naïve café façade coöperate Ångström",
    "Straße Größe ÄÖÜ äöü ß",
    "¿Qué tal? ¡Muy bien! El niño comió piña.",
    "Привет, как дела? Всё хорошо.",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好，世界！今天天气很好。",
    "こんにちは世界。カタカナとひらがな。",
    "안녕하세요 세계",
    "emoji: 😀 🚀 👩‍👩‍👧 🇩🇪 ✌🏽 ❤️",
    "math: ∑ x² ≤ ∞ ± √2 ≈ 1.414 → ∀ε>0",
    "quotes: “curly” ‘single’ «guillemets» „low“ — dash – en … dots",
    "combining: e\u0301 a\u0308 n\u0303 versus é ä ñ",
    "zero\u200bwidth\u200djoin non\u00a0breaking",
    "under_score-and-hyphen/slash\\back|pipe~tilde^caret`tick",
    "ALL CAPS AND MiXeD cAsE",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...,,,;;;:::",
    "(nested [brackets {here} ] )",
    "$100 €50 £20 ¥1000 ₹500",
    "user@example.org #hashtag @mention",
    "x",
    " ",
    "\n",
)

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "What time is it?"},),
    (
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Now in French, s'il te plaît."},
    ),
    ({"role": "system", "content": "You are terse."}, {"role": "user", "content": "Who are you?"}),
)

TEXT = (
    "Please turn the light in the kitchen to thirty percent, then set a timer for ten minutes. A small model reads what "
    "the user asks and answers with one call of a tool; it has learned how people speak at home, and it declines what no "
    "tool can do. The heater in the bedroom stays at nineteen degrees until seven o'clock, and the music plays on."
)
"""Ordinary prose, for logits: about a hundred tokens with most vocabularies."""

POSITIONS = 96
"""Tokens whose logits are compared, in two chunks, so that the KV cache is crossed."""


def special_texts(tokenizer: TokenizerData) -> list[str]:
    """The special tokens of a tokenizer, in its own order, at most sixteen."""
    added = tokenizer.parsed.get("added_tokens", [])
    return [token["content"] for token in added if token.get("special")][:16]


def special_names(tokenizer: TokenizerData) -> dict[str, str | None]:
    """bos_token, eos_token and so on as texts, for chat templates."""
    names: dict[str, str | None] = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = tokenizer.config.get(key)
        names[key] = value.get("content") if isinstance(value, Mapping) else value
    return names


def conversation(model: Model, messages: Sequence[Mapping[str, Any]]) -> str:
    """A finished conversation as the model was trained to see it; without a chat template, what was said, line by line."""
    if model.chat_template is None:
        return "\n".join(str(message["content"]) for message in messages)
    special = special_names(model.tokenizer)
    return chat.render(model.chat_template, messages, special=special, add_generation_prompt=False)


def truth(model: Model) -> dict[str, Any]:
    """The source's own ids and texts for the corpus, as they go into a receipt.

    {"texts": [[text, ids], ...], "conversations": [[messages, text], ...], "ids": tokens for the comparison of logits}
    """
    source = model.tokenizer.encoder
    texts = list(TEXTS)
    for token in special_texts(model.tokenizer):
        texts += [token, f"before{token}after", f"{token}\n {token}"]
    conversations: list[tuple[Sequence[Mapping[str, str]], str]] = []
    if model.chat_template is not None:
        for messages in CONVERSATIONS:
            try:
                rendered = chat.render(model.chat_template, messages, special=special_names(model.tokenizer))
            except CorruptInput:
                continue  # some templates refuse a system message
            conversations.append((messages, rendered))
            texts.append(rendered)
    ids = source.encode(TEXT, add_special_tokens=False).ids
    ids = (ids * (1 + POSITIONS // max(1, len(ids))))[: min(POSITIONS, model.spec.context // 2)]
    return {
        "texts": [[text, source.encode(text, add_special_tokens=False).ids] for text in texts],
        "conversations": [[[dict(m) for m in messages], text] for messages, text in conversations],
        "ids": [i % model.spec.vocab for i in ids],
    }
