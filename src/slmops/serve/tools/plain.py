"""A call as the whole answer, in JSON: {"name": ..., "arguments": {...}}. What is asked of a model whose template has no
notation of its own."""

import re

OPENS, CLOSES = "", ""
BARE, LIST = True, False
ARGUMENTS = "arguments"


def writes(text: str) -> bool:
    # Neither in a tag nor behind a token of its own: a notation that is not known.
    return re.search(r'(?<![>\]])\s\{"name": "\w+", "arguments": \{', text) is not None
