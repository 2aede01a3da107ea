"""Where a verb takes a folder, a name of the registry does as well: name[:tag] or sha256:<hex>. Paths win over names."""

from __future__ import annotations

import atexit
import contextlib
from pathlib import Path

from slmops.core.errors import SourceNotFound
from slmops.registry import policy, references

LEASES = contextlib.ExitStack()
"""What this process has open: it stays in the registry until the process ends."""
atexit.register(LEASES.close)


def folder(text: str) -> Path:
    """The folder of an artifact: the path, or where the registry has what is called so.

    What is neither is given back as a path, for the verb to say what it misses. Raises CorruptInput.
    """
    path = Path(text)
    with contextlib.suppress(OSError):
        if path.exists():
            return path
    from slmops.registry import Registry, exists, home

    pinned = references.SHORT.fullmatch(text) is not None
    if not (pinned or references.parse(text)) or not exists(home()):
        return path
    held = LEASES.enter_context(Registry.open())
    try:
        return LEASES.enter_context(held.lease(text, "open in a verb"))
    except SourceNotFound:
        if pinned or ":" in text or held.catalog.tags(text):
            raise
        return path


def source(text: str) -> str:
    """The same for verbs that take a name of the Hugging Face Hub too: a name that the registry has wins over the Hub.

    `org/name@main` is the Hub's in any case. Raises PolicyRefused where the policy's sources leave that name out.
    """
    found = folder(text)
    if found != Path(text):
        return str(found)
    from slmops.formats import _hub
    from slmops.registry import home

    if not found.exists() and (name := _hub.parse(text)) is not None:
        policy.load(home()).admit(f"hf:{name.repo}")
    return text
