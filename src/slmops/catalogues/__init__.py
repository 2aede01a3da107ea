"""Catalogues of models elsewhere, one a file: what they list, never weights. A file holds:

HELP            what it is
SORTS           orders that it can give, the usual one first
search(wanted)  -> what it lists; raises Unreachable where it cannot be asked, CorruptInput for an answer that is none

What a catalogue says is a stranger's word: entries that make no sense are left out, answers are bounded in time and size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from slmops.core import units
from slmops.core.errors import UsageError
from slmops.plan import tiers

ROOM = "catalogues"
MOST = 100
"""Entries of an answer."""
SECONDS = 60.0
"""For an answer, all of it."""
LONGEST = 200
"""Characters of a name, a licence, a task."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for."""

    text: str = ""
    task: str = ""
    least: int = 0
    most: int | None = None
    """Parameters, from and to."""
    licence: str = ""
    sort: str = ""
    limit: int = 20

    @property
    def sized(self) -> bool:
        """Whether a size is asked for: then what does not tell its own is left out."""
        return self.least > 0 or self.most is not None

    def fits(self, parameters: int | None) -> bool:
        """Whether a size is within the wanted ones."""
        if parameters is None:
            return not self.sized
        return self.least <= parameters <= (self.most if self.most is not None else parameters)


@dataclass(frozen=True)
class Listed:
    """A model as a catalogue has it; None for what it does not say."""

    name: str
    parameters: int | None = None
    licence: str | None = None
    task: str | None = None
    downloads: int | None = None
    likes: int | None = None
    gated: bool | None = None
    bytes: int | None = None
    context: int | None = None
    device: str | None = None
    """What a variant is made for."""


def sizes(text: str) -> tuple[int, int | None]:
    """Parameters from and to, of 0.5B-4B, -3B, 7B- or a tier's name. Raises UsageError."""
    for name, fewest, most in tiers.TIERS:
        if text == name:
            return int(fewest), int(most)
    match = re.fullmatch(r"([0-9.]+[kmb]?)?-([0-9.]+[kmb]?)?", text.lower())
    names = ", ".join(name for name, _, _ in tiers.TIERS)
    if match is None or not (match[1] or match[2]):
        raise UsageError(f"{text[:100]!r} is no size", f"such as 0.5B-4B, -3B, 7B-, or one of: {names}")
    low = _count(match[1]) if match[1] else 0
    high = _count(match[2]) if match[2] else None
    if high is not None and high < low:
        raise UsageError(f"{text!r} ends below where it begins", "such as 0.5B-4B")
    return low, high


def _count(text: str) -> int:
    try:
        return units.parse_size(text if text[-1] in "km" else text.rstrip("b") + ("g" if text[-1] == "b" else ""))
    except ValueError:
        raise UsageError(f"{text!r} is no number of parameters", "such as 500M or 0.5B") from None


def whole(value: object, most: int = 1 << 60) -> int | None:
    """A count that a stranger gave; None where it is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def word(value: object) -> str | None:
    """A short text that a stranger gave; None where it is none."""
    return value[:LONGEST] if isinstance(value, str) and value.strip() else None
