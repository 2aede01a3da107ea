"""What llguidance is told of JSON: it is in ONNX Runtime GenAI and in xllamacpp's llama.cpp."""

from __future__ import annotations

from typing import Any

from slmops.core.errors import UsageError


def guided(schema: Any) -> dict[str, Any]:
    """The schema, with the blanks between the parts of the JSON as Python writes them: small models lose themselves in them
    where any number is allowed. llama.cpp's own grammars, which do not know the word, bound them too."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise UsageError("a JSON schema is an object")
    return {**schema, "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
