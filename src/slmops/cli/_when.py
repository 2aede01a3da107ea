"""Moments as people type them: a date, a time, or so long from now or ago."""

from __future__ import annotations

import datetime
import time

from slmops.core import units
from slmops.core.errors import UsageError


def ahead(text: str) -> float:
    """Seconds since 1970 of a date, a time or what is so far from now (90d). Raises UsageError."""
    return _moment(text, 1)


def ago(text: str) -> float:
    """The same, of what was so long ago (2h)."""
    return _moment(text, -1)


def _moment(text: str, sign: int) -> float:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        try:
            return time.time() + sign * units.parse_seconds(text)
        except UsageError:
            raise UsageError(f"{text[:80]!r} is no moment", "2027-01-31, 2027-01-31T12:00Z, or a span such as 90d") from None
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).timestamp()
