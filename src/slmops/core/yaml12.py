"""YAML as YAML 1.2 reads it, with the place of everything; no tags, no aliases, no key twice, keys are texts.

PyYAML follows YAML 1.1, where `on: true` has the key True, `07:30` is 450 and `010` is 8: a house is full of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from slmops.core.errors import CorruptInput, SourceNotFound

MOST = 1 << 20
"""Bytes of a file."""
DEEPEST = 64

Way = tuple[str | int, ...]
"""Keys and numbers of items that lead to a value."""


class Keys(dict[str, Any]):
    """A mapping that knows where it stands."""

    line = 0
    """From 1."""


class Places(dict[Way, tuple[int, int]]):
    """Where each value of a file stands: line and column, from 1; of a mapping's entry its key."""

    def of(self, way: Way) -> tuple[int, int]:
        """The place of a value, or of the nearest one around it that is in the file."""
        while way and way not in self:
            way = way[:-1]
        return self.get(way, (1, 1))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own declaration
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not taken", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="tags are not taken", problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="too deeply nested", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def keyed(self, node: Any) -> Keys:
        found = Keys()
        found.line = node.start_mark.line + 1
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


def scalar(text: str) -> Any:
    """What a text would be in a file, where that is a scalar; else the text. For what is typed."""
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return text
    return value if isinstance(value, bool | int | float) else text


def read(path: Path, manual: str = "docs/checks.md", more: str = "") -> Any:
    """What a file holds; mappings are Keys. Raises SourceNotFound, or CorruptInput naming the line.

    manual: what says more of such files; more: what to do with one that is too large.
    """
    return located(path, manual, more)[0]


def located(path: Path, manual: str, more: str = "") -> tuple[Any, Places]:
    """The same, with the place of every value."""
    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give the path of one")
    if path.stat().st_size > MOST:
        raise CorruptInput(f"{path} has more than {MOST} bytes", more or f"see {manual} for what it holds")
    try:
        loader = _Loader(path.read_bytes())
        try:
            node = loader.get_single_node()
            value = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
        return value, Places(_places(node, ())) if node is not None else Places()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line ?"
        raise CorruptInput(f"{path}, {where}: {error.problem}", f"see {manual} for what it holds") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptInput(f"{path} is no YAML: {error}", f"see {manual} for what it holds") from None


def _places(node: Any, way: Way) -> Iterator[tuple[Way, tuple[int, int]]]:
    yield way, (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _places(value, (*way, name.value))
            yield (*way, name.value), (name.start_mark.line + 1, name.start_mark.column + 1)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _places(value, (*way, number))
