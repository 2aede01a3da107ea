"""Hermes, Qwen and their kin: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, once for each call.

https://github.com/NousResearch/Hermes-Function-Calling
"""

import re

OPENS, CLOSES = "<tool_call>\n", "\n</tool_call>"
BARE = LIST = False
NAMES, ARGUMENTS = ("name",), "arguments"


def writes(text: str) -> bool:
    return re.search(r'<tool_call>\s*\{\s*"name"', text) is not None
