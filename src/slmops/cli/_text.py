"""Plain text for people: tables and units."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from slmops.core.units import count as count
from slmops.core.units import size as size

if TYPE_CHECKING:
    from slmops.measure.gates import Verdict
    from slmops.registry.approval import Gate


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Unicode's category Cc but for tab and line feed: what terminals take for commands."""


def harmless(text: str) -> str:
    """What manifests, receipts and registries say is not ours: nothing of it may steer a terminal or hide."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def answer(piece: str) -> None:
    """A piece of a model's answer, at once: whole into a pipe or a file; on a terminal nothing of it is a command."""
    sys.stdout.write(CONTROLS.sub("?", piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Aligned columns under a header. `align` has a letter a column, l or r; without it, l and then r for the rest."""
    align = align or "l" + "r" * (len(header) - 1)
    # Column by column, for a registry may have thousands of lines.
    columns = [list(map(str, column)) for column in zip(header, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    line = "  ".join(f"{{:{'>' if side == 'r' else '<'}{width}}}" for side, width in zip(align, widths, strict=True))
    return "\n".join([one.rstrip() for one in map(line.format, *columns)])


def verdicts(found: Iterable[Verdict | Gate]) -> list[str]:
    """A line a gate, with a mark: + passed, x failed, ? undecided, - not applicable; those that only advise say so."""
    return [
        f"  {'-' if not one.applies else '?' if one.passed is None else '+' if one.passed else 'x'} {one.gate}: {one.said}"
        + ("" if one.blocks or one.passed or not one.applies else " [advice]")
        for one in found
    ]


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Name and value, a pair a line, values below each other; the lines of a longer value are indented alike."""
    kept = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(name.ljust(width + 2) + value.replace("\n", "\n" + " " * (width + 2)) for name, value in kept)
