"""The sizes of small language models, by their parameters."""

from __future__ import annotations

TIERS: tuple[tuple[str, float, float], ...] = (
    ("micro", 0.1e9, 1.4e9),
    ("small", 1.5e9, 13.9e9),
    ("medium", 14e9, 30e9),
)
"""(name, fewest, most parameters), in ascending order."""


def tier(parameters: int) -> str:
    """micro, small or medium; what falls outside or into a gap is named as such."""
    below = ""
    for name, fewest, most in TIERS:
        if parameters < fewest:
            return f"between {below} and {name}" if below else f"below {name}"
        if parameters <= most:
            return name
        below = name
    return f"above {below}"
