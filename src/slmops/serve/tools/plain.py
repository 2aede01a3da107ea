"""A call as the whole answer, in JSON: {"name": ..., "arguments": {...}}, or with "tool" for "name".

What is asked of a model whose template has no notation of its own: which of the two it was trained to write, it chooses.
"""

import re

OPENS, CLOSES = "", ""
BARE, LIST = True, False
NAMES, ARGUMENTS = ("name", "tool"), "arguments"


def writes(text: str) -> bool:
    # Neither in a tag nor behind a token of its own: a notation that is not known.
    return re.search(r'(?<![>\]])\s\{"name": "\w+", "arguments": \{', text) is not None
