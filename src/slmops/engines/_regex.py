"""A regular expression as a grammar that llama.cpp takes (GBNF). What is no regular language, or means a place in the text,
is refused by name."""

from __future__ import annotations

import re
from typing import Any

from slmops.core.errors import Unsupported, UsageError

MOST_REPEATS = 1000
"""llama.cpp refuses more, for time's sake."""
CLASSES = {
    "CATEGORY_DIGIT": "0-9",
    "CATEGORY_WORD": "a-zA-Z0-9_",
    "CATEGORY_SPACE": r" \t\n\r",
}
"""Of ASCII: a subset of what Python's own mean, so that what comes still matches."""


def grammar(pattern: str) -> str:
    """GBNF of texts that match the whole pattern. Raises UsageError for no pattern, Unsupported for one beyond grammars."""
    # The parser of re, under the name that it has since Python 3.11.
    from re import _parser  # type: ignore[attr-defined]

    try:
        tree = _parser.parse(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"the regular expression cannot be read: {error}") from None
    if tree.state.flags & (re.IGNORECASE | re.MULTILINE):
        raise Unsupported("flags within a regular expression cannot be a grammar", "write both letters: [aA]")
    items = list(tree)
    # Anchors at either end say what is so anyway.
    if items and str(items[0][0]) == "AT" and str(items[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        items = items[1:]
    if items and str(items[-1][0]) == "AT" and str(items[-1][1]) in ("AT_END", "AT_END_STRING"):
        items = items[:-1]
    return f"root ::= {_sequence(items)}\n"


def _sequence(items: Any) -> str:
    return " ".join(_item(str(name), value) for name, value in items) or '""'


def _item(name: str, value: Any) -> str:
    match name:
        case "LITERAL":
            return f'"{_escaped(value)}"'
        case "NOT_LITERAL":
            return f"[^{_escaped(value)}]"
        case "ANY":
            return r"[^\n]"
        case "IN":
            negated = str(value[0][0]) == "NEGATE"
            return f"[{'^' if negated else ''}{''.join(_member(str(kind), one) for kind, one in value[negated:])}]"
        case "BRANCH":
            return f"({' | '.join(_sequence(one) for one in value[1])})"
        case "SUBPATTERN":
            return f"({_sequence(value[3])})"
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, inner = value
            endless = str(most) == "MAXREPEAT"
            if least > MOST_REPEATS or (not endless and most > MOST_REPEATS):
                raise Unsupported(f"a repetition of more than {MOST_REPEATS} cannot be a grammar", "write * or +")
            return f"({_sequence(inner)}){{{least},{'' if endless else most}}}"
    raise Unsupported(
        f"{name.lower()} in a regular expression cannot be a grammar", "leave look-around, back-references and \\b out"
    )


def _member(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return _escaped(value)
    if kind == "RANGE":
        return f"{_escaped(value[0])}-{_escaped(value[1])}"
    if kind == "CATEGORY" and str(value) in CLASSES:
        return CLASSES[str(value)]
    raise Unsupported(f"{value} in a regular expression cannot be a grammar", r"write the letters: [^0-9] for \D")


def _escaped(letter: int) -> str:
    """As GBNF writes any letter; letters and digits as they are."""
    if 48 <= letter <= 57 or 65 <= letter <= 90 or 97 <= letter <= 122:
        return chr(letter)
    return f"\\x{letter:02X}" if letter < 128 else f"\\u{letter:04X}" if letter < 1 << 16 else f"\\U{letter:08X}"
