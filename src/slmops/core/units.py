"""Bytes and counts as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 10**3, "m": 10**6, "g": 10**9}  # fmt: skip
"""What people type, in lower case."""


def size(count: float) -> str:
    """Bytes in decimal units, three figures: 335 MB, 1.23 GB."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"), " ")


def parse_size(text: str) -> int | None:
    """Bytes of 1GiB, 800 MB or 1e9; None where the text is no number of bytes."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]{1,2})?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    return round(float(match[1]) * BYTES[match[2]]) if match is not None and match[2] in BYTES else None


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
