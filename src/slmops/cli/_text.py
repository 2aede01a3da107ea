"""Plain text for people: tables and units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Aligned columns under a header. `align` has a letter a column, l or r; without it, l and then r for the rest."""
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    align = align or "l" + "r" * (len(header) - 1)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, align, strict=True)
        ).rstrip()
        for line in lines
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Name and value, a pair a line, values below each other; the lines of a longer value are indented alike."""
    kept = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(name.ljust(width + 2) + value.replace("\n", "\n" + " " * (width + 2)) for name, value in kept)


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
