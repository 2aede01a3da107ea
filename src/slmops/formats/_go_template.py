"""Ollama's chat templates, in Go's text/template, as Jinja: the common part of the language, and the rest refused by name.

Two kinds, told apart as Ollama does (template/template.go, Execute): those over .Messages run once; the older ones, over
.System, .Prompt and .Response, run for each turn, and in the last what stands behind .Response is left away.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from slmops.core.errors import CorruptInput, Unsupported

CURE = "leave TEMPLATE out: the model's own chat template is used"
MOST_LETTERS, DEEPEST = 64 << 10, 32
ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|\d+|\$?\.[A-Za-z]\w*|\$\w*|:=|[A-Za-z_]\w*|[().,|=]', re.ASCII)
ROOT = {"System": "system", "Messages": "messages", "Prompt": "prompt", "Response": "response"}
MESSAGE = {"Role": "message['role']", "Content": "message['content']"}
COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
LAST = ("eq", [("len", [("slice", [("root", "Messages"), ("index", "")])]), ("literal", "1")])
"""How templates ask for the last message: eq (len (slice $.Messages $i)) 1."""
Expression = tuple[str, Any]


def jinja(text: str) -> str:
    """A template in Jinja that writes the same. Raises CorruptInput for what is no template, Unsupported."""
    if len(text) > MOST_LETTERS:
        raise CorruptInput(f"a template has at most {MOST_LETTERS:,} letters")
    once = re.search(r"\.Messages\b", text) is not None
    translator = _Translator(_pieces(text), once)
    body = translator.block(False, 0)
    if translator.at < len(translator.pieces):
        raise CorruptInput("the template has an end too many", CURE)
    if once:
        system = "messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n')"
        return f"{{% set system = {system} %}}{''.join(body)}"
    if not translator.answers:
        body.append("{{ response }}")
    return _turns("".join(body), "".join(_until_answer(body)))


def _until_answer(body: list[str]) -> list[str]:
    """Up to what writes the answer, which is being written then."""
    place = next((at for at, part in enumerate(body) if part == "{{ response }}"), None)
    if place is None:
        raise Unsupported("a template with .Response inside a condition is not done", CURE)
    return body[:place]


def _turns(turn: str, last: str) -> str:
    given, empty = "(said.system, said.prompt, said.response)", "said.system, said.prompt, said.response"
    done = f"{{{{ turn{given} }}}}" + "".join(f"{{% set {one.strip()} = '' %}}" for one in empty.split(","))
    return (
        f"{{% macro turn(system, prompt, response) %}}{turn}{{% endmacro %}}"
        f"{{% macro open(system, prompt, response) %}}{last}{{% endmacro %}}"
        "{% set said = namespace(system='', prompt='', response='') %}{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{{% if said.prompt or said.response %}}{done}{{% endif %}}"
        "{% set said.system = message['content'] %}"
        f"{{% elif message['role'] == 'user' %}}{{% if said.response %}}{done}{{% endif %}}"
        "{% set said.prompt = message['content'] %}"
        "{% elif message['role'] == 'assistant' %}{% set said.response = message['content'] %}"
        "{% else %}{{ raise_exception('this template has no place for the role ' + message['role']) }}{% endif %}"
        "{% endfor %}"
        # An answer that stands at the end is written to where it ends, and goes on from there.
        f"{{{{ open{given} }}}}{{{{ said.response }}}}"
    )


@dataclass
class _Piece:
    """A text, or the words of an action."""

    text: str = ""
    words: list[str] = field(default_factory=list)


def _pieces(text: str) -> list[_Piece]:
    found: list[_Piece] = []
    end, trim = 0, False
    for match in ACTION.finditer(text):
        before = text[end : match.start()]
        before = before.lstrip() if trim else before
        found.append(_Piece(before.rstrip() if match[1] else before))
        if not match[2].startswith("/*"):
            found.append(_Piece(words=_words(match[2])))
        end, trim = match.end(), bool(match[3])
    rest = text[end:]
    if "{{" in rest:
        raise CorruptInput("the template has an action without an end", CURE)
    found.append(_Piece(rest.lstrip() if trim else rest))
    return [one for one in found if one.text or one.words]


def _words(action: str) -> list[str]:
    words, at = [], 0
    while at < len(action):
        if action[at].isspace():
            at += 1
            continue
        match = TOKEN.match(action, at)
        if match is None:
            raise Unsupported(f"{action[at : at + 20]!r} in a template is not understood", CURE)
        words.append(match[0])
        at = match.end()
    if not words:
        raise CorruptInput("the template has an empty action", CURE)
    return words


class _Translator:
    """Reads pieces in their order."""

    def __init__(self, pieces: list[_Piece], once: bool) -> None:
        self.pieces, self.at, self.once = pieces, 0, once
        self.answers = False
        """Whether .Response was written."""
        self._index: str | None = None
        self._message: str | None = None
        self._set: set[str] = set()

    def block(self, inside: bool, depth: int) -> list[str]:
        """Up to an end or else, or all of it. inside: of a range, whose dot is a message."""
        if depth > DEEPEST:
            raise Unsupported("the template's conditions are too deep", CURE)
        found: list[str] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            words = piece.words
            if words and words[0] in ("end", "else"):
                break
            self.at += 1
            if not words:
                found.append(f"{{{{ {json.dumps(piece.text, ensure_ascii=False)} }}}}")
            elif words[0] == "if":
                found.append(self._condition(words[1:], inside, depth))
            elif words[0] == "range":
                found.append(self._range(words[1:], inside, depth))
            elif len(words) > 2 and words[1] == ":=":
                if words[0] in ("$", self._index, self._message) or not words[0].startswith("$"):
                    raise Unsupported(f"the variable {words[0]} of a template is not done", CURE)
                found.append(f"{{% set v_{words[0][1:]} = {self._whole(words[2:], inside)} %}}")
                self._set.add(words[0])
            elif words[0] in ("with", "template", "define", "block", "break", "continue"):
                raise Unsupported(f"{words[0]} in a template is not done", CURE)
            else:
                written = f"{{{{ {self._whole(words, inside)} }}}}"
                self.answers = self.answers or written == "{{ response }}"
                found.append(written)
        return found

    def _condition(self, words: list[str], inside: bool, depth: int) -> str:
        said = f"{{% if {self._whole(words, inside)} %}}" + "".join(self.block(inside, depth + 1))
        while (words := self._next())[0] == "else":
            if words[1:2] == ["if"]:
                said += f"{{% elif {self._whole(words[2:], inside)} %}}"
            elif len(words) == 1:
                said += "{% else %}"
            else:
                raise Unsupported(f"else {words[1]} in a template is not done", CURE)
            said += "".join(self.block(inside, depth + 1))
        return said + "{% endif %}"

    def _range(self, words: list[str], inside: bool, depth: int) -> str:
        names: list[str] = []
        if ":=" in words:
            place = words.index(":=")
            names, words = [one for one in words[:place] if one != ","], words[place + 1 :]
        if inside or words not in ([".Messages"], ["$.Messages"]) or len(names) > 2:
            raise Unsupported(f"a range over {' '.join(words)[:40]} in a template is not done", CURE)
        self._index, self._message = names[0] if len(names) == 2 else None, names[-1] if names else None
        said = "{% for message in messages %}" + "".join(self.block(True, depth + 1)) + "{% endfor %}"
        self._index = self._message = None
        if self._next() != ["end"]:
            raise Unsupported("else of a range is not done", CURE)
        return said

    def _next(self) -> list[str]:
        if self.at == len(self.pieces):
            raise CorruptInput("the template has a condition or a range without an end", CURE)
        self.at += 1
        return self.pieces[self.at - 1].words

    def _whole(self, words: list[str], inside: bool) -> str:
        left = list(words)
        found = self._call(left, inside)
        if left:
            raise Unsupported(f"{left[0]!r} in a template is not done", CURE)
        return _written(found)

    def _call(self, left: list[str], inside: bool) -> Expression:
        """A function with what it is given, or one thing; what was read is taken off `left`."""
        if not left:
            raise CorruptInput("a condition of the template says nothing", CURE)
        if left[0] in (*COMPARED, "and", "or", "not", "len", "slice"):
            name, given = left.pop(0), []
            while left and left[0] != ")":
                given.append(self._thing(left, inside))
            if len(given) != 1 if name in ("not", "len") else len(given) < 2:
                raise CorruptInput(f"{name} in the template is given {len(given)} things", CURE)
            return name, given
        return self._thing(left, inside)

    def _thing(self, left: list[str], inside: bool) -> Expression:
        word = left.pop(0)
        if word == "(":
            found = self._call(left, inside)
            if not left or left.pop(0) != ")":
                raise CorruptInput("a parenthesis of the template has no end", CURE)
            return found
        if word[0] == '"':
            return "literal", json.dumps(_unquoted(word), ensure_ascii=False)
        if word[0] == "`":
            return "literal", json.dumps(word[1:-1], ensure_ascii=False)
        if word.isdecimal() or word in ("true", "false"):
            return "literal", word
        if word == self._index:
            return "index", ""
        if word == self._message and left and left[0].startswith("."):
            return self._field(left.pop(0)[1:], True)
        if word in self._set:
            return "literal", f"v_{word[1:]}"
        if word.startswith("$."):
            return self._field(word[2:], False)
        if word.startswith("."):
            return self._field(word[1:], inside)
        raise Unsupported(f"{word[:40]!r} in a template is not done", CURE)

    def _field(self, name: str, of_message: bool) -> Expression:
        if of_message and name in MESSAGE:
            return "literal", MESSAGE[name]
        if not of_message and name in ROOT and (self.once == (name in ("Messages", "System")) or name == "System"):
            return "root", name
        raise Unsupported(f".{name} in a template is not done", CURE)


def _unquoted(word: str) -> str:
    try:
        return str(json.loads(word))
    except ValueError:
        raise Unsupported(f"the text {word[:40]} of a template is not understood", CURE) from None


def _written(found: Expression) -> str:
    name, given = found
    if found == LAST:
        return "loop.last"
    if name == "literal":
        return str(given)
    if name == "root":
        return ROOT[given]
    if name == "index":
        return "loop.index0"
    parts = [_written(one) for one in given]
    if name in ("and", "or"):
        return "(" + f" {name} ".join(parts) + ")"
    if name == "not":
        return f"(not {parts[0]})"
    if name == "len":
        return f"({parts[0]} | length)"
    if name == "eq":
        return "(" + " or ".join(f"{parts[0]} == {one}" for one in parts[1:]) + ")"
    if name in COMPARED and len(parts) == 2:
        return f"({parts[0]} {COMPARED[name]} {parts[1]})"
    raise Unsupported(f"{name} in a template is not done", CURE)
