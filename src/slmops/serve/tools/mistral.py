"""Mistral to its tokenizer v7: [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]

https://github.com/mistralai/mistral-common (tokenizers v3 and v7). Later ones, which write [ARGS] and no list, are not
known.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from slmops.serve.request import Messages

OPENS, CLOSES = "[TOOL_CALLS]", ""
BARE = LIST = True
NAMES, ARGUMENTS = ("name",), "arguments"


def writes(text: str) -> bool:
    return "[TOOL_CALLS][" in text or "[TOOL_CALLS] [" in text


def told(messages: Messages, tools: Messages) -> tuple[Messages, Messages]:
    """These templates take ids of nine letters and digits alone."""
    found: list[Mapping[str, Any]] = []
    for message in messages:
        if "tool_calls" in message:
            message = {**message, "tool_calls": [{**call, "id": _nine(call["id"])} for call in message["tool_calls"]]}
        if "tool_call_id" in message:
            message = {**message, "tool_call_id": _nine(message["tool_call_id"])}
        found.append(message)
    return found, tools


def _nine(identifier: str) -> str:
    if len(identifier) == 9 and identifier.isascii() and identifier.isalnum():
        return identifier
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:9]
