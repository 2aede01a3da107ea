"""The JSON schema (draft-07, which editors know) of a pipeline's file, made of the steps' own; and what it finds wrong.

Wherever a step's key takes a value, it takes a reference to a parameter or to a step above as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema

from slmops.core import plugins
from slmops.core.yaml12 import Places, Way
from slmops.pipeline.steps import ROOM

NAME = r"^[a-z][a-z0-9_-]{0,63}$"
REFERENCE = r"^\$\{(parameters\.[a-z][a-z0-9_-]{0,63}|steps\.[a-z][a-z0-9_-]{0,63}(\.[a-z][a-z0-9_-]{0,63}){1,2})\}$"
PARAMETERS = ("string", "integer", "number", "boolean", "list", "path", "model")
"""Types of parameters. A list is of texts; a path or a model that is typed (--set) is read from where it is typed."""
MOST_STEPS = 200
MANUAL = "see docs/pipelines.md for what it holds"


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong in a file, and where: line and column from 1."""

    line: int
    column: int
    said: str
    cure: str = ""


def whole() -> dict[str, Any]:
    """The schema, with the kinds of steps that there are here."""
    kinds = {name: plugins.load(ROOM, name) for name in plugins.names(ROOM)}
    name = {"type": "string", "pattern": NAME}
    step: dict[str, Any] = {
        "type": "object",
        "description": "a name, and one kind of step with its keys",
        "properties": {
            "name": {**name, "description": "what later steps call it: ${steps.NAME...}"},
            **{kind: {"$ref": f"#/definitions/{kind}"} for kind in kinds},
        },
        "required": ["name"],
        "minProperties": 2,
        "maxProperties": 2,
        "additionalProperties": False,
    }
    parameter = {
        "type": "object",
        "properties": {
            "type": {"enum": list(PARAMETERS)},
            "default": {"description": "without one, --set must give a value"},
            "choices": {"type": "array", "minItems": 1, "description": "the values that are allowed"},
            "help": {"type": "string"},
        },
        "required": ["type"],
        "additionalProperties": False,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline of slmops",
        "type": "object",
        "properties": {
            "$schema": {"type": "string", "description": "for editors"},
            "pipeline": {**name, "description": "its name"},
            "description": {"type": "string"},
            "parameters": {
                "type": "object",
                "description": "what --set KEY=VALUE may set: ${parameters.KEY}",
                "propertyNames": {"pattern": NAME},
                "additionalProperties": parameter,
            },
            "steps": {
                "type": "array",
                "description": "in order; a step refers to those above it",
                "minItems": 1,
                "maxItems": MOST_STEPS,
                "items": step,
            },
        },
        "required": ["pipeline", "steps"],
        "additionalProperties": False,
        "definitions": {
            "reference": {"type": "string", "pattern": REFERENCE},
            **{kind: _keys(module) for kind, module in kinds.items()},
        },
    }


def _keys(module: Any) -> dict[str, Any]:
    properties = {name: _or_reference(form) for name, form in module.SCHEMA["properties"].items()}
    return {
        "type": "object",
        "description": module.HELP,
        "properties": properties,
        "required": list(module.SCHEMA.get("required", ())),
        "additionalProperties": False,
    }


def _or_reference(form: Mapping[str, Any]) -> dict[str, Any]:
    if form.get("type") == "string" and not {"enum", "pattern"} & set(form):
        return dict(form)  # a reference is a text
    inner = {key: value for key, value in form.items() if key != "description"}
    if inner.get("type") == "array":
        inner["items"] = _or_reference(inner["items"])
    told = {"description": form["description"]} if "description" in form else {}
    return {**told, "anyOf": [inner, {"$ref": "#/definitions/reference"}]}


def faults(value: Any, places: Places) -> list[Fault]:
    """What of a file does not keep to the schema, in the order of the file."""
    found = jsonschema.Draft7Validator(whole()).iter_errors(value)
    return sorted({one for error in found for one in _told(error, places)})


def _told(error: Any, places: Places, cure: str = "") -> Iterator[Fault]:
    way: Way = tuple(error.absolute_path)
    if error.validator == "anyOf":  # a value, or a reference: what is wrong with the value is what is told
        told = str(error.schema.get("description", cure))
        for one in [one for one in error.context if one.schema_path[0] == 0]:
            yield from _told(one, places, told)
        return
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in [key for key in error.instance if key not in known]:
            yield _unknown(places.of((*way, key)), key, known, step=len(way) == 2 and way[0] == "steps")
        return
    line, column = places.of(way)
    if error.validator == "required":
        lacking = [name for name in error.validator_value if name not in error.instance]
        yield Fault(line, column, f"{_called(way)} lacks {' and '.join(map(repr, lacking))}", _described(error, lacking))
    elif error.validator in ("minProperties", "maxProperties"):
        if all(key in error.schema["properties"] for key in error.instance):  # else the unknown one is what is wrong
            kinds = [key for key in error.schema["properties"] if key != "name"]
            yield Fault(line, column, "a step is a name and one kind of step", f"one of: {', '.join(kinds)}")
    else:
        yield Fault(line, column, f"{_called(way)} {_wrong(error)}", str(error.schema.get("description", cure)) or MANUAL)


def _unknown(place: tuple[int, int], key: str, known: list[str], step: bool) -> Fault:
    near = nearest(key, known)
    if not step:
        return Fault(*place, f"unknown key {key[:100]!r}", f"{near}known: {', '.join(known)}")
    kinds = [name for name in known if name != "name"]
    return Fault(*place, f"this version has no step of the kind {key[:100]!r}", f"{near}it has: {', '.join(kinds)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...?' where something is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}? " if near else ""


def _wrong(error: Any) -> str:
    value, bound = error.instance, error.validator_value
    shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:97]}..."
    words = {
        "type": f"is {shown}, and must be {_article(bound)}",
        "enum": f"is {shown}, and must be one of: {', '.join(map(str, bound)) if isinstance(bound, list) else bound}",
        "pattern": f"is {shown}: lower-case letters, digits, - and _, a letter first",
        "minimum": f"is {shown}, and must be at least {bound}",
        "exclusiveMinimum": f"is {shown}, and must be above {bound}",
        "maximum": f"is {shown}, and must be at most {bound}",
        "minItems": f"has {len(value) if isinstance(value, list) else 0} items, and must have at least {bound}",
        "maxItems": f"has {len(value) if isinstance(value, list) else 0} items, and may have {bound}",
        "minLength": "is empty",
        "maxLength": f"has more than {bound} characters",
        "oneOf": f"is {shown}, and must be a reference or a list of them",
    }
    return words.get(error.validator, str(error.message)[:200])


def _article(kind: Any) -> str:
    words = {"string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
             "array": "a list", "object": "a mapping"}  # fmt: skip
    return words.get(str(kind), str(kind))


def _called(way: Way) -> str:
    """How a place is called in a message: the last key, and what it is in."""
    if not way:
        return "the file"
    if isinstance(way[-1], int):
        return f"item {way[-1] + 1} of {str(way[-2])!r}" if len(way) > 1 else f"item {way[-1] + 1}"
    return repr(way[-1])


def _described(error: Any, lacking: list[str]) -> str:
    properties = error.schema.get("properties", {})
    said = [f"{name}: {properties[name]['description']}" for name in lacking if "description" in properties.get(name, {})]
    return "; ".join(said) or MANUAL
