"""What llguidance is told of JSON: it is in ONNX Runtime GenAI and in xllamacpp's llama.cpp."""

from __future__ import annotations

from typing import Any

from slmops.engines import _schema


def guided(text: str) -> dict[str, Any]:
    """The schema, with the blanks between the parts of the JSON as Python writes them: small models lose themselves in them
    where any number is allowed. llama.cpp's own grammars, which do not know the word, bound them too."""
    return {
        **_schema.parsed(text),
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    }
