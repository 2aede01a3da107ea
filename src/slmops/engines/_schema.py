"""A JSON schema that a client sends."""

from __future__ import annotations

import json
from typing import Any

from slmops.core.errors import UsageError


def parsed(text: str) -> dict[str, Any]:
    """Raises UsageError for what is no schema."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the JSON schema is no JSON: {str(error)[:200]}") from None
    if not isinstance(schema, dict):
        raise UsageError("a JSON schema is an object")
    return schema
