"""Llama 3.1 and later: the answer is {"name": ..., "parameters": {...}} and nothing else, with or without <|python_tag|>.

https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling)
"""

import re

OPENS, CLOSES = "", ""
BARE, LIST = True, False
NAMES, ARGUMENTS = ("name",), "parameters"


def writes(text: str) -> bool:
    # No comma in the name: the function's own description has its "parameters" too, after a "description".
    return re.search(r'\{"name": [^{},]{1,80}, "parameters": ', text) is not None
