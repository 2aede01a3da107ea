"""Calls out of an answer as it comes: text before them is text, a call's name comes once, its arguments in pieces."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from types import ModuleType

from slmops.core.stops import overlap
from slmops.serve.request import Arguments, Call, Ended, Event, Piece

_KEYS = ("arguments", "parameters")
_BETWEEN = " \t\r\n,;[]"
"""What may stand between calls."""
_TAG = "<|python_tag|>"
"""Llama 3's, where an engine leaves it in the text."""


def identifier() -> str:
    """Of a call. Nine letters and digits: Mistral's templates take no others."""
    return secrets.token_hex(5)[:9]


class Reader:
    """Takes an answer's events and gives back what a client is told."""

    def __init__(self, notation: ModuleType, names: Collection[str], several: bool, forced: bool) -> None:
        """names: of the functions that may be called; JSON that calls none of them is text. forced: the answer is a call."""
        self._opens, self._closes = notation.OPENS.strip() or _TAG, notation.CLOSES.strip()
        self._names, self._keys, self._several = frozenset(names), notation.NAMES, several
        self._may_begin, self._inside = notation.BARE, forced
        self._held = ""
        """Text that may become a marker, or is white space that nothing has followed yet."""
        self._marker, self._raw = "", ""
        """What is given back as text if it turns out to be no call: the marker, and what has come since."""
        self._object: _Object | None = None
        self._calls = 0
        self.enough = False
        """Whether the call that was asked for is whole, and nothing more is wanted."""

    def take(self, event: Event) -> list[Event]:
        """What is certain now."""
        match event:
            case Piece() if not self.enough:
                found = self._region(event.text) if self._inside else self._text(event)
            case Ended():
                # The rest of a call that was told, or what stands behind the last one, is not text.
                told = self._calls and (self._object is None or self._object.told)
                rest = self._held if told else self._marker + self._raw + self._held
                found = [Piece(rest)] if rest.strip() or (rest and not self._calls) else []
                found.append(
                    Ended("tool_calls" if self._calls and event.reason == "stop" else event.reason, event.tokens, event.stop)
                )
            case Piece():
                found = []
            case _:
                found = [event]
        return found

    def _text(self, piece: Piece) -> list[Event]:
        text, self._held = self._held + piece.text, ""
        start = text.lstrip()
        if self._may_begin and (not start or self._opens.startswith(start)):
            self._held = text
            return []
        if self._may_begin and start[0] in "{[" and not start.startswith(self._opens):
            self._inside, self._may_begin = True, False
            return self._region(text)
        if (place := text.find(self._opens)) >= 0:
            before, after = text[:place].rstrip(), text[place + len(self._opens) :]
            self._marker = text[len(before) : place + len(self._opens)]
            self._inside, self._may_begin = True, False
            return [*([Piece(before, piece.logprobs)] if before else []), *self._region(after)]
        certain = text[: len(text) - overlap(text, self._opens)].rstrip()
        self._held = text[len(certain) :]
        self._may_begin = self._may_begin and not certain
        return [Piece(certain, piece.logprobs)] if certain else []

    def _region(self, text: str) -> list[Event]:
        """Calls, and what stands between them."""
        found: list[Event] = []
        for at, letter in enumerate(text):
            self._raw += letter
            if self._object is None:
                between = self._raw.lstrip(_BETWEEN)
                if between == "{":
                    self._object = _Object(self._keys)
                    self._object.push(letter)
                elif between and between == self._closes:
                    return [*found, *self._out("", text[at + 1 :])]
                elif between and not self._closes.startswith(between):
                    return [*found, *self._out(self._marker + self._raw, text[at + 1 :])]
                continue
            one = self._object
            one.push(letter)
            if one.name is not None and not one.told:
                if one.name not in self._names:
                    return [*found, *self._out(self._marker + self._raw, text[at + 1 :])]
                one.told, one.index, self._marker = True, self._calls, ""
                self._calls += 1
                found.append(Call(one.index, identifier(), one.name))
            if one.told and (more := one.fresh()):
                if isinstance(found[-1] if found else None, Arguments):
                    more = found.pop().text + more  # type: ignore[union-attr]
                found.append(Arguments(one.index, more))
            if one.closed:
                if not one.told:
                    return [*found, *self._out(self._marker + self._raw, text[at + 1 :])]
                self._object, self._raw = None, ""
                if not self._several:
                    self.enough = True
                    return found
        return found

    def _out(self, back: str, rest: str) -> list[Event]:
        """Text again: what was no call, and what follows."""
        self._inside, self._object, self._marker, self._raw = False, None, "", ""
        back = back.lstrip(_BETWEEN) if self._calls else back
        return [*([Piece(back)] if back else []), *(self._text(Piece(rest)) if rest else [])]


class _Object:
    """One JSON object, letter by letter: the name in it, and the text of its arguments as it grows."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys
        self.name: str | None = None
        self.told, self.closed, self.index = False, False, 0
        self._raw, self._depth = "", 0
        self._string = self._escaped = False
        self._key: str | None = None
        self._in_value, self._from, self._first = False, 0, ""
        """Of the present value: whether there is one, where it began (or its key did), its first letter."""
        self._fresh, self._had = "", False

    def fresh(self) -> str:
        """The text of the arguments that has come since this was last asked."""
        found, self._fresh = self._fresh, ""
        return found

    def push(self, letter: str) -> None:
        at = len(self._raw)
        self._raw += letter
        if self._in_value and not self._first:
            self._first = letter.strip()
        if self._string:
            self._in_string(letter)
        elif letter == '"':
            self._string = True
            if self._depth == 1 and not self._in_value:
                self._from = at
        outer = self._depth
        if not self._string:
            self._depth += (letter in "{[") - (letter in "}]")
        if self._in_value and self._key in _KEYS and self._first == "{" and max(outer, self._depth) > 1:
            self._fresh += letter
            self._had = True
        if self._string or self._depth > 1:
            return
        if letter == ":" and not self._in_value:
            self._in_value, self._from, self._first = True, at + 1, ""
        elif (letter == "," and self._depth == 1) or self._depth == 0:
            # Some models write their arguments as a string that holds JSON.
            if self._key in _KEYS and not self._had and (held := _text_of(self._raw[self._from : at])):
                self._fresh, self._had = held, True
            self._in_value, self._key = False, None
            if self._depth == 0:
                self.closed = True
                self._fresh += "" if self._had else "{}"

    def _in_string(self, letter: str) -> None:
        if self._escaped:
            self._escaped = False
        elif letter == "\\":
            self._escaped = True
        elif letter == '"':
            self._string = False
            if self._depth == 1 and not self._in_value:
                self._key = _text_of(self._raw[self._from :])
            elif self._depth == 1 and self._key in self._keys and self.name is None:
                self.name = _text_of(self._raw[self._from :])


def _text_of(value: str) -> str | None:
    """Of a JSON string; None of any other value."""
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, str) else None
