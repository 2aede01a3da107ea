"""Bytes and counts as people read them."""

from __future__ import annotations

from collections.abc import Sequence


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
