"""YAML as YAML 1.2 reads it, with the line of every key; no tags, no aliases, no key twice, keys are texts.

PyYAML follows YAML 1.1, where `on: true` has the key True, `07:30` is 450 and `010` is 8: a house is full of these.
`fitting` holds what was read against a JSON schema, and names the line of what does not fit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from slmops.core.errors import CorruptInput, SourceNotFound

MOST = 1 << 20
"""Bytes of a file."""
DEEPEST = 64


class Keys(dict[str, Any]):
    """A mapping that knows where it stands."""

    line = 0
    """From 1."""
    lines: Mapping[str, int] = {}
    """Of each key."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own declaration
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not taken", problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="too deeply nested", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def keyed(self, node: Any) -> Keys:
        found = Keys()
        found.line = node.start_mark.line + 1
        found.lines = {str(getattr(name, "value", "")): name.start_mark.line + 1 for name, _ in node.value}
        for name, value in node.value:
            key = self.construct_object(name, deep=True)
            if not isinstance(key, str) or key in found:
                problem = (
                    f"the key {key!r} stands twice" if isinstance(key, str) else f"the key {key!r} is no text: quote it"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=name.start_mark)
            found[key] = self.construct_object(value, deep=True)
        return found


# YAML 1.2, 10.3.2: the core schema.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.keyed)


def read(path: Path, cure: str = "") -> Any:
    """What a file holds; mappings are Keys. cure: what to do about a fault of it.

    Raises SourceNotFound, or CorruptInput naming the line.
    """
    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give the path of one")
    if path.stat().st_size > MOST:
        raise CorruptInput(f"{path} has more than {MOST} bytes", cure)
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise CorruptInput(f"{path}, line {line}: {error.problem}", cure) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptInput(f"{path} is no YAML: {error}", cure) from None


def fitting(path: Path, value: Any, schema: Mapping[str, Any], cure: str = "") -> None:
    """Raises CorruptInput, naming the line, where what was read from `path` does not fit a JSON schema (2020-12)."""
    import jsonschema

    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(value), key=lambda one: list(map(str, one.absolute_path))
    )
    if not errors:
        return
    error = jsonschema.exceptions.best_match(errors)
    place = ".".join(map(str, error.absolute_path))
    line, said = _line(value, error.absolute_path), error.message
    known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties" and isinstance(error.instance, Keys):
        unknown = [key for key in error.instance if key not in known]
        line, said = error.instance.lines.get(unknown[0], line), f"unknown key {unknown[0]!r}"
        near = difflib.get_close_matches(unknown[0], known, 1)
        cure = f"is {near[0]!r} meant?" if near else f"known: {', '.join(known)}"
    raise CorruptInput(f"{path}, line {line}: {f'{place}: ' if place else ''}{said[:300]}", cure)


def _line(value: Any, place: Iterable[str | int]) -> int:
    """Of the nearest key above a place of what was read."""
    line = getattr(value, "line", 1)
    for key in place:
        held = value
        value = held[key]
        line = held.lines.get(str(key), line) if isinstance(held, Keys) else getattr(value, "line", line)
    return int(line)
