"""Where a checkpoint keeps its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput
from slmops.formats import _files

FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def read(folder: Path) -> str | None:
    """The default template, or None. As in transformers, a file of its own stands before tokenizer_config.json."""
    for name in FILES:
        if not _files.there(folder, name):
            continue
        if name.endswith(".jinja"):
            try:
                return _files.content(folder, name).decode()
            except UnicodeDecodeError:
                raise CorruptInput(f"{name} is not UTF-8 text", "download it again") from None
        template = _default(_files.read_json(folder, name).get("chat_template"))
        if template is not None:
            return template
    return None


def _default(value: Any) -> str | None:
    """Either the text, or a list of {name, template} of which one is called default."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
