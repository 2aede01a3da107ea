"""Phi-4-mini: <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>; functions stand in the system's message.

https://huggingface.co/microsoft/Phi-4-mini-instruct (tool-enabled function-calling format). Its template writes no calls, so
those of earlier turns become text.
"""

import json
from collections.abc import Mapping
from typing import Any

from slmops.serve.request import Messages

OPENS, CLOSES = "<|tool_call|>", "<|/tool_call|>"
BARE = LIST = True
NAMES, ARGUMENTS = ("name",), "arguments"


def writes(text: str) -> bool:
    return "<|tool|>" in text and "<|/tool|>" in text


def told(messages: Messages, tools: Messages) -> tuple[Messages, Messages]:
    found = [_written(message) for message in messages]
    if tools:
        first = found.pop(0) if found and found[0]["role"] == "system" else {"role": "system", "content": ""}
        found.insert(0, {**first, "tools": json.dumps([tool["function"] for tool in tools], ensure_ascii=False)})
    return found, ()


def _written(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = json.dumps([call["function"] for call in message["tool_calls"]], ensure_ascii=False)
    return {"role": message["role"], "content": f"{message['content']}{OPENS}{calls}{CLOSES}"}
