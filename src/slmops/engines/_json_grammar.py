"""A JSON schema as a grammar (EBNF, as xgrammar reads it) with no blanks but those that Python writes.

xgrammar's own reading of a schema allows any number of blanks between the parts, in which small models lose themselves, and
OpenVINO GenAI does not pass its option against them on. As there, an object has its properties in the order in which they
are named, and others only where none is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slmops.engines import _schema

RULES = {
    "any": 'object | array | string | number | "true" | "false" | "null"',
    "object": '"{" (member (", " member)*)? "}"',
    "member": 'string ": " any',
    "array": '"[" (any (", " any)*)? "]"',
    "string": r'"\"" ([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
TYPES: Mapping[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
"""Of the values of an enum beside a type."""
SAID = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"})
"""Keywords that forbid nothing."""
OWN = {"object": {"properties", "required", "additionalProperties"}, "array": {"items", "minItems", "maxItems"}}
"""Keywords of a type that are known."""
INSTEAD = ("const", "enum", "$ref", "anyOf", "oneOf")
"""Keywords that say it all, the first two perhaps beside a type."""
MOST_RULES, MOST_ITEMS = 2000, 1000


class _Beyond(Exception):
    """The schema says what is not known here."""


def grammar(text: str) -> str | None:
    """The grammar of a schema; None where it says more than is known here. Raises UsageError for what is no schema."""
    schema = _schema.parsed(text)
    try:
        found = _Grammar(schema).text()
        found.encode()
    except (_Beyond, RecursionError, TypeError, AttributeError, ValueError):
        return None  # xgrammar's own reading says what is wrong, if something is
    return found


class _Grammar:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema, self._rules, self._names = schema, dict(RULES), dict[str, str]()
        self._within: set[str] = set()
        """Definitions that are being read, since the last bracket: one that begins with itself would never end."""

    def text(self) -> str:
        groups = ("$defs", "definitions")
        self._rules["root"] = self._of({key: value for key, value in self._schema.items() if key not in groups})
        return "".join(f"{name} ::= {body}\n" for name, body in self._rules.items())

    def _rule(self, body: str) -> str:
        if len(self._rules) >= MOST_RULES:
            raise _Beyond
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _either(self, expressions: list[str]) -> str:
        if not expressions:
            raise _Beyond
        return self._rule(" | ".join(expressions))

    def _of(self, schema: Any) -> str:
        """What a schema allows: a name, or a terminal."""
        if schema is True or (isinstance(schema, dict) and not schema.keys() - SAID):
            return "any"
        said = {key: value for key, value in schema.items() if key not in SAID}
        kind, key = said.pop("type", None), next((one for one in INSTEAD if one in said), "")
        value = said.pop(key, None)
        if key and (said or (kind is not None and key not in ("const", "enum"))):
            raise _Beyond
        if key in ("const", "enum"):
            values = [value] if key == "const" else list(value)
            if kind is not None and not all(type(one) in TYPES.get(kind, ()) for one in values):
                raise _Beyond
            return self._either([_written(_json(one)) for one in values])
        if key == "$ref":
            return self._named(value)
        if key:
            return self._either([self._of(one) for one in value])
        kinds = kind if isinstance(kind, list) else [kind]
        if said.keys() - {word for one in kinds for word in OWN.get(one, ())}:
            raise _Beyond
        found = [self._typed(one, {word: said[word] for word in OWN.get(one, set()) & said.keys()}) for one in kinds]
        return found[0] if len(found) == 1 else self._either(found)

    def _typed(self, kind: str, said: Mapping[str, Any]) -> str:
        if kind not in RULES or kind in ("any", "member"):
            raise _Beyond
        if not said:
            return kind
        within, self._within = self._within, set()
        found = self._object(said) if kind == "object" else self._array(said)
        self._within = within
        return found

    def _named(self, pointer: str) -> str:
        """The rule of a definition, which may hold itself."""
        _, group, name = pointer.split("/") if pointer.count("/") == 2 and pointer[:2] == "#/" else ("", "", "")
        if group not in ("$defs", "definitions") or name not in self._schema.get(group, {}) or pointer in self._within:
            raise _Beyond
        if pointer not in self._names:
            self._names[pointer] = self._rule("")
            self._within.add(pointer)
            self._rules[self._names[pointer]] = self._of(self._schema[group][name])
            self._within.discard(pointer)
        return self._names[pointer]

    def _object(self, said: Mapping[str, Any]) -> str:
        properties, required = said.get("properties", {}), said.get("required", [])
        more = said.get("additionalProperties", "properties" not in said)
        if set(required) - properties.keys() or (properties and more is not False):
            raise _Beyond
        if not properties:
            if more not in (False, True, {}):
                raise _Beyond
            return _written("{}") if more is False else "object"
        # What may come from a property on: as the first of all, and behind another.
        first = rest = _written("")
        for name, schema in reversed(properties.items()):
            member = f"{_written(_json(name) + ': ')} {self._of(schema)} {rest}"
            left_out = ([], []) if name in required else ([first], [rest])
            first, rest = self._either([member, *left_out[0]]), self._either([f'", " {member}', *left_out[1]])
        return self._rule(f'"{{" {first} "}}"')

    def _array(self, said: Mapping[str, Any]) -> str:
        one, least, most = self._of(said.get("items", True)), said.get("minItems", 0), said.get("maxItems", MOST_ITEMS)
        if not 0 <= least <= most <= MOST_ITEMS:
            raise _Beyond
        if most == 0:
            return _written("[]")
        last = "" if "maxItems" not in said else str(most - 1)
        whole = f'{one} (", " {one}){{{max(0, least - 1)},{last}}}'
        return self._rule(f'"[" {whole} "]"' if least else f'"[" ({whole})? "]"')


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _written(text: str) -> str:
    """A terminal."""
    return '"' + "".join(f"\\{one}" if one in '"\\' else one for one in text) + '"'
