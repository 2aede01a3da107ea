"""JSON schemas that engines hold answers to: what may stand in a stranger's, and that of the calls of some functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from slmops.core.errors import UsageError

MOST_CALLS = 16
DEEPEST = 64
MOST_REPEATS = 4096
"""Engines write repeats out: a list of a million entries takes a line to ask for, and all memory to hold an answer to."""
_DEFINED = ("$defs", "definitions")
_REPEATS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def shallow(value: Any) -> bool:
    """Whether nothing in it is nested deeper than DEEPEST."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return True
    return False


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []


def check(schema: Mapping[str, Any]) -> None:
    """Raises UsageError for a schema that an engine had better not be given."""
    if not shallow(schema):
        raise UsageError(f"a JSON schema is nested at most {DEEPEST} deep")
    left: list[Any] = [schema]
    while left:
        one = left.pop()
        left += _parts(one)
        if not isinstance(one, Mapping):
            continue
        for key in _REPEATS:
            if isinstance(count := one.get(key), int) and count > MOST_REPEATS:
                raise UsageError(f"a JSON schema has {key} of at most {MOST_REPEATS}")
        reference = one.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise UsageError(f"a JSON schema refers to {reference[:100]!r}", "references stay within it")


def calls(tools: Sequence[Mapping[str, Any]], notation: ModuleType, several: bool) -> dict[str, Any]:
    """One call of one of the functions, or a list of such, of one entry unless `several`. Raises UsageError."""
    shared: dict[str, Any] = {}
    found = []
    for index, tool in enumerate(tools):
        function = tool["function"]
        check(function.get("parameters") or {})
        held = _moved(function.get("parameters") or {"type": "object", "properties": {}}, f"f{index}_", shared)
        found += [
            {
                "type": "object",
                "properties": {key: {"type": "string", "enum": [function["name"]]}, notation.ARGUMENTS: held},
                "required": [key, notation.ARGUMENTS],
                "additionalProperties": False,
            }
            for key in notation.NAMES
        ]
    schema: dict[str, Any] = found[0] if len(found) == 1 else {"anyOf": found}
    if notation.LIST:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": MOST_CALLS if several else 1}
    return {**schema, "$defs": shared} if shared else schema


def _moved(schema: Any, prefix: str, shared: dict[str, Any]) -> Any:
    """The schema with its definitions moved to the root of another: references are told from the root."""
    kept = dict(schema) if isinstance(schema, Mapping) else schema
    if isinstance(kept, dict):
        for key in _DEFINED:
            for name, one in (kept.pop(key, None) or {}).items():
                shared[prefix + name] = _renamed(one, prefix)
    return _renamed(kept, prefix)


def _renamed(schema: Any, prefix: str) -> Any:
    if isinstance(schema, list):
        return [_renamed(one, prefix) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _renamed(value, prefix) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        head, _, name = reference.rpartition("/")
        if head not in [f"#/{key}" for key in _DEFINED]:
            raise UsageError(f"a function's schema refers to {reference[:100]!r}", "references stay in its own $defs")
        found["$ref"] = f"#/$defs/{prefix}{name}"
    return found
