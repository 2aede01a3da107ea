"""Bytes, rates, shares, times and counts as people type and read them (1GiB, 20tok/s, 60%, 10m)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slmops.core.errors import UsageError

BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 10**3, "m": 10**6, "g": 10**9}  # fmt: skip
"""What people type, in lower case."""


def size(count: float) -> str:
    """Bytes in decimal units, three figures: 335 MB, 1.23 GB."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"), " ")


def count(number: float) -> str:
    """596 M, 4.02 B: parameters and tokens in thousands, millions, billions."""
    return _scaled(number, ("", "k", "M", "B", "T"), " ").strip()


def _scaled(value: float, units: Sequence[str], gap: str) -> str:
    for unit in units:
        # 999.6 would be shown as 1000 of its unit.
        if abs(value) < 999.5 or unit == units[-1]:
            break
        value /= 1000
    whole = unit == units[0] or abs(value) >= 99.95
    figures = f"{value:.0f}" if whole else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return f"{figures}{gap}{unit}"


def parse_size(text: str, whole: int | None = None) -> int:
    """Bytes of 1GiB, 800 MB or 1e9; of 60% too where `whole` is what it is a share of."""
    number, unit = _split(text, "a number of bytes such as 1GiB, 800MB" + (" or 60%" if whole is not None else ""))
    if unit == "%" and whole is not None:
        return round(whole * number / 100)
    if unit not in BYTES:
        raise UsageError(f"{text!r} is no number of bytes", "give one such as 1GiB or 800MB")
    return round(number * BYTES[unit])


def parse_rate(text: str) -> float:
    """Tokens a second of 20, 20tok/s or 20 t/s."""
    number, unit = _split(text, "a speed such as 20tok/s")
    if unit not in ("", "tok/s", "t/s", "tokens/s", "tps"):
        raise UsageError(f"{text!r} is no speed", "such as 20tok/s")
    return number


def _split(text: str, what: str) -> tuple[float, str]:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z%/]*)\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not {what}")
    return float(match[1]), match[2]


def parse_seconds(text: str) -> float:
    """Seconds of 90, 90s, 10m, 2h or 7d."""
    number, unit = _split(text, "a time such as 90s, 10m or 2h")
    factors = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
    if unit not in factors:
        raise UsageError(f"{text!r} is no time", "such as 90s, 10m or 2h")
    return number * factors[unit]
