"""Figures and words of a report as people read them; everything that becomes HTML is escaped here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from slmops.core import units

MOST_TEXT = 600
"""Characters of a text that are shown."""


def brief(text: object, most: int = MOST_TEXT) -> str:
    return cut(" ".join(str(text).split()), most)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def words(value: object) -> str:
    """Nested data in a line: name value, name (name value, ...); what is empty is left out."""
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if one not in (None, "", [], {})}
        pairs = (f"{key} ({words(one)})" if isinstance(one, Mapping) else f"{key} {words(one)}" for key, one in kept.items())
        return ", ".join(pairs)
    return "; ".join(map(words, value)) if isinstance(value, list) else str(value)


def number(value: float) -> str:
    """Three figures or all whole ones."""
    if value and abs(value) < 1e-4:
        return f"{value:.1e}"
    if abs(value) < 0.1:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def rate(value: float) -> str:
    return f"{value:,.4g}"


def percent_tick(value: float) -> str:
    return f"{100 * value:.4g}%"


def power(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")


def milliseconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


SHOWS = {"bytes": units.size, "number": number, "percent": percent, "time": milliseconds, "rate": rate}


def figure(value: float | None, kind: str = "number") -> Markup:
    """A figure as it was taken and as people read it."""
    return Markup("–") if value is None else Markup('<data value="{}">{}</data>').format(repr(value), SHOWS[kind](value))


def interval(found: Mapping[str, Any] | None, kind: str = "number") -> Markup:
    """An estimate: the figure, and its 95 % interval below it."""
    if found is None:
        return Markup("–")
    ends = bounds(found)
    said = f"{SHOWS[kind](ends[0])} to {SHOWS[kind](ends[1])}" if ends else "no interval: one sample"
    return Markup('{} <span class="interval">{}</span>').format(figure(found["value"], kind), said)


def bounds(found: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = found["low"], found["high"]
    return (low, high) if low is not None and high is not None else None
