"""Text in and out through a Hugging Face tokenizer, for the engines whose own tokenizer it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slmops.core.errors import UsageError
from slmops.engines import Sampling


class Words:
    """A transformers tokenizer (or mlx-lm's wrapper of one), told to add nothing and to leave blanks alone.

    `load` makes it when it is first needed: scoring alone needs no text.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return self._load()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it become their ids, none is added."""
        return [int(number) for number in self._tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(ids), **options)) if ids else ""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The conversation by the chat template (in transformers' sandbox), or None without one."""
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        rows = [dict(message) for message in messages]
        return str(self._tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))


def check(ids: Sequence[int], chunks: Sequence[int] | None, vocab: int, context: int | None) -> None:
    """Raise UsageError for a sequence that the engine would misread or crash on."""
    if not ids or not all(0 <= number < vocab for number in ids):
        raise UsageError(f"token ids must lie in 0 to {vocab - 1}, and there must be one")
    if context is not None and len(ids) > context:
        raise UsageError(f"{len(ids)} tokens do not fit into a context of {context}", "give a larger --context")
    if chunks is not None and (sum(chunks) != len(ids) or min(chunks) < 1):
        raise UsageError(f"chunks {list(chunks)} do not add up to {len(ids)} tokens")


def begun(ids: list[int], bos: int | None) -> list[int]:
    """The ids of a prompt with the beginning-of-text token, where there is one to be put before it and the text has none."""
    return [bos, *ids] if bos is not None and ids[:1] != [bos] else ids


def fit(sampling: Sampling, prompt: int, context: int) -> Sampling:
    """No more tokens than the context has room for after a prompt of so many."""
    if prompt >= context:
        raise UsageError(f"the prompt has {prompt} tokens, the context {context}", "shorten it")
    if sampling.max_tokens < 1:
        raise UsageError("--max-tokens must be at least 1")
    return dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, context - prompt))
