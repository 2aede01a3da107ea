"""Ollama's Modelfile: read into what slmops.create makes. https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx

The grammar is parser/parser.go's of 2026-08: a command a line, in any case, its value plain, in quotes, or over lines in
triple quotes; # begins a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from slmops.core import parameters
from slmops.core.errors import CorruptInput, Unsupported

MOST_LETTERS = 4 << 20
COMMANDS = ("FROM", "TEMPLATE", "PARAMETER", "SYSTEM", "ADAPTER", "MESSAGE", "LICENSE")
REFUSED = {
    "DRAFT": "a draft model is the engine's business here",
    "RENDERER": "a model's own chat template renders here",
    "PARSER": "what a model's answer means is found by its chat template here",
    "REQUIRES": "it names a version of Ollama",
}
ROLES = ("system", "user", "assistant")
NUMBERS = {name: one.kind for name, one in parameters.TABLE.items() if one.kind is not bool}
WORDS = [name for name, one in parameters.TABLE.items() if one.kind is bool]


@dataclass
class Modelfile:
    """What one says."""

    source: str = ""
    template: str | None = None
    """Go's."""
    system: str | None = None
    adapter: str | None = None
    licences: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    parameters: dict[str, object] = field(default_factory=dict)


def parse(text: str) -> Modelfile:
    """Raises CorruptInput with the line, Unsupported for a command that is known and not done."""
    if len(text) > MOST_LETTERS:
        raise CorruptInput(f"a Modelfile has at most {MOST_LETTERS:,} letters")
    found, lines, at = Modelfile(), text.removeprefix("\ufeff").splitlines(), 0
    while at < len(lines):
        line, number = lines[at].strip(), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        command = word.upper()
        if command in REFUSED:
            raise Unsupported(f"line {number}: {command} is not done: {REFUSED[command]}", "take the line out")
        if command not in COMMANDS:
            raise CorruptInput(f"line {number}: {word[:40]!r} is no command", f"one of: {', '.join(COMMANDS)}")
        head = ""
        if command in ("PARAMETER", "MESSAGE"):
            head, _, rest = rest.strip().partition(" ")
        rest = rest.strip()
        quote = '"""' if rest.startswith('"""') else '"' if rest.startswith('"') else ""
        held = [rest.removeprefix(quote)] if quote else [rest]
        while quote and not held[-1].rstrip().endswith(quote):
            if at == len(lines):
                raise CorruptInput(f"line {number}: {command}'s text has no end", f"close it with {quote}")
            held.append(lines[at])
            at += 1
        value = "\n".join(held)
        value = value.rstrip().removesuffix(quote) if quote else value
        if not value and command != "SYSTEM":
            raise CorruptInput(f"line {number}: {command} says nothing", "put its value behind it")
        _take(found, command, head, value, number)
    if not found.source:
        raise CorruptInput("no FROM line", "FROM names the model that it is made from")
    return found


def _take(found: Modelfile, command: str, head: str, value: str, number: int) -> None:
    match command:
        case "FROM":
            if found.source:
                raise Unsupported(f"line {number}: a second FROM is not done", "one model is made from one")
            found.source = value
        case "TEMPLATE":
            found.template = value
        case "SYSTEM":
            found.system = value
        case "ADAPTER":
            if found.adapter:
                raise Unsupported(f"line {number}: a second ADAPTER is not done", "merge them one after the other")
            found.adapter = value
        case "LICENSE":
            found.licences.append(value)
        case "MESSAGE":
            if head not in ROLES:
                raise CorruptInput(f"line {number}: {head[:40]!r} is no role", f"one of: {', '.join(ROLES)}")
            found.messages.append({"role": head, "content": value})
        case "PARAMETER":
            _parameter(found, head, value, number)


def _parameter(found: Modelfile, name: str, value: str, number: int) -> None:
    if name == "stop":
        listed = found.parameters.setdefault("stop", [])
        assert isinstance(listed, list)
        listed.append(value)
    elif name in WORDS:
        if value.lower() not in ("true", "false"):
            raise CorruptInput(f"line {number}: {name} is true or false")
        found.parameters[name] = value.lower() == "true"
    elif name in NUMBERS:
        shape = r"[+-]?\d{1,18}" if NUMBERS[name] is int else r"[+-]?(\d{1,18}(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?"
        if re.fullmatch(shape, value, re.ASCII) is None:
            raise CorruptInput(f"line {number}: {name} is a number, not {value[:40]!r}")
        found.parameters[name] = NUMBERS[name](value)
    else:
        raise CorruptInput(f"line {number}: there is no parameter {name[:40]!r}", f"one of: stop, {', '.join(NUMBERS)}")
