"""What llguidance is told of JSON: it is in ONNX Runtime GenAI and in xllamacpp's llama.cpp."""

from __future__ import annotations

import json
from typing import Any

from slmops.core.errors import UsageError


def guided(text: str) -> dict[str, Any]:
    """The schema, with the blanks between the parts of the JSON as Python writes them: small models lose themselves in them
    where any number is allowed. llama.cpp's own grammars, which do not know the word, bound them too."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the JSON schema is no JSON: {str(error)[:200]}") from None
    if not isinstance(schema, dict):
        raise UsageError("a JSON schema is an object")
    return {**schema, "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
