"""What the words of a verb say of sampling; of the rest, the model's own parameters hold."""

from __future__ import annotations

import argparse
from typing import Any

from slmops.core.errors import UsageError

FIELDS = ("max_tokens", "temperature", "top_k", "top_p", "seed")


def said(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of engines.Sampling, those alone that were given. Raises UsageError."""
    found = {name: value for name in FIELDS if (value := getattr(arguments, name, None)) is not None}
    if found.get("temperature", 0) < 0 or not 0 < found.get("top_p", 1) <= 1 or found.get("top_k", 0) < 0:
        raise UsageError("--temperature is at least 0, --top-p above 0 and at most 1, --top-k at least 0")
    return found
