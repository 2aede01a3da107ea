"""The licence that a checkpoint's README or LICENSE file states."""

from __future__ import annotations

import re
from pathlib import Path

from slmops.core.errors import SlmopsError
from slmops.formats import _files

TEXTS = (
    ("Apache License", "apache-2.0"),
    ("MIT License", "mit"),
    ("Permission is hereby granted, free of charge", "mit"),
    ("LLAMA 3.2 COMMUNITY LICENSE", "llama3.2"),
    ("LLAMA 3.1 COMMUNITY LICENSE", "llama3.1"),
    ("META LLAMA 3 COMMUNITY LICENSE", "llama3"),
    ("LLAMA 2 COMMUNITY LICENSE", "llama2"),
    ("Gemma Terms of Use", "gemma"),
)


def read(folder: Path) -> str | None:
    """The SPDX-like name from the front matter of README.md, else recognised from LICENSE; None where neither says."""
    try:
        if _files.there(folder, "README.md"):
            found = front_matter(_files.content(folder, "README.md", 16 << 20).decode(errors="replace"))
            if found:
                return found
        for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
            if _files.there(folder, name):
                text = _files.content(folder, name).decode(errors="replace")[:4000]
                return next((licence for sign, licence in TEXTS if sign.lower() in text.lower()), f"see {name}")
    except SlmopsError:
        return None  # a licence that cannot be read must not keep a model from being read
    return None


def front_matter(text: str) -> str | None:
    """`license:` between the two lines `---` at the top; `other` gives way to `license_name`."""
    match = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", text[:65536], re.DOTALL)
    if not match:
        return None
    fields = dict(re.findall(r"^(license|license_name):[ \t]*[\"']?([^\s\"'#\[]+)", match[1], re.MULTILINE))
    licence = fields.get("license")
    return fields.get("license_name", licence) if licence in ("other", None) else licence
