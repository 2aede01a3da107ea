"""References: what a user types for an artifact. None of it ever becomes a path; only a checked digest does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slmops.core.errors import CorruptInput, UsageError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
SHORT = re.compile(r"sha256:[0-9a-f]{8,64}", re.ASCII)
# The grammar of OCI distribution 1.1, Pulling manifests: <name> and a tag as <reference>.
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
MOST_NAME = 200
LATEST = "latest"


@dataclass(frozen=True)
class Reference:
    """A name and a tag: `home:q4`; without a tag, `latest`."""

    name: str
    tag: str = LATEST

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


def digest(text: str) -> str:
    """The digest, if it is one. Raises CorruptInput."""
    if not isinstance(text, str) or DIGEST.fullmatch(text) is None:
        raise CorruptInput(f"{str(text)[:100]!r} is not a digest", "a digest is sha256: and 64 hexadecimal digits")
    return text


def parse(text: str) -> Reference | None:
    """`name[:tag]`, or None where the text is neither."""
    if len(text) > MOST_NAME + 129:
        return None
    name, _, tag = text.partition(":")
    if len(name) > MOST_NAME or NAME.fullmatch(name) is None:
        return None
    if ":" in text and TAG.fullmatch(tag) is None:
        return None
    return Reference(name, tag or LATEST)


def named(text: str) -> Reference:
    """The same. Raises UsageError."""
    found = parse(text)
    if found is None or text.startswith("sha256:"):
        said = slug(text.partition(":")[0])
        raise UsageError(
            f"{text[:100]!r} is no name for an artifact",
            f"a name is lower-case letters, digits and . _ - / between them, a tag follows a colon: {said}:q4",
        )
    return found


def slug(text: str) -> str:
    """The nearest name to a text."""
    words = re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", text.lower())
    return ("-".join(words) or "model")[:MOST_NAME].rstrip("-.")
