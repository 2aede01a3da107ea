"""A file as a Pipeline: parameters put in, references checked, before anything runs.

${parameters.NAME} is a parameter; ${steps.NAME.OUTPUT} and ${steps.NAME.artifacts.gguf} are what a step above made. A value
that is one reference has the value's own type; within a text, texts and numbers are put in. There are no expressions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core import plugins, store, yaml12
from slmops.core.errors import CorruptInput, SlmopsError, UsageError
from slmops.core.yaml12 import Places, Way
from slmops.pipeline import schema
from slmops.pipeline.desk import INPUTS
from slmops.pipeline.schema import Fault
from slmops.pipeline.steps import ROOM, checked

NAMED = r"[a-z][a-z0-9_-]{0,63}"
FOUND = re.compile(r"\$\{([^}]*)\}?")
PARAMETER = re.compile(rf"parameters\.({NAMED})")
OUTPUT = re.compile(rf"steps\.({NAMED})\.({NAMED})(?:\.({NAMED}))?")
WITHIN = ("text", "number", "path")
"""Types of outputs that may stand within a text."""
UNSET = object()


@dataclass(frozen=True)
class Step:
    """One step of a file, parameters put in."""

    name: str
    kind: str
    keys: Mapping[str, Any]
    line: int

    @property
    def module(self) -> Any:
        return plugins.load(ROOM, self.kind)

    @property
    def needs(self) -> list[str]:
        """Names of the steps that it refers to."""
        return _named(self.keys, OUTPUT)

    @property
    def unset(self) -> list[str]:
        """Names of the parameters that it refers to and that have no value."""
        return _named(self.keys, PARAMETER)


@dataclass(frozen=True)
class Pipeline:
    """A file that nothing is wrong with."""

    path: Path
    name: str
    digest: str
    """Of what the file says, whatever the parameters."""
    parameters: Mapping[str, Any]
    """With --set and defaults; UNSET ones are left out."""
    unset: tuple[str, ...]
    """Those that must be given to run it."""
    steps: tuple[Step, ...]


def read(path: Path, given: Sequence[str] = ()) -> Pipeline:
    """The pipeline of a file, its parameters set by KEY=VALUE. Raises SourceNotFound, UsageError for the parameters, and
    CorruptInput for what is wrong first, naming line and column."""
    pipeline, faults = examine(path, given)
    if pipeline is None:
        first, more = faults[0], f" (and {len(faults) - 1} more: slmops pipeline check)" if len(faults) > 1 else ""
        raise CorruptInput(f"{path}:{first.line}:{first.column}: {first.said}{more}", first.cure or schema.MANUAL)
    return pipeline


def examine(path: Path, given: Sequence[str] = ()) -> tuple[Pipeline | None, list[Fault]]:
    """The pipeline, or what is wrong with it, in the order of the file. Raises for what is no YAML, and for `given`."""
    said, places = yaml12.located(path, "docs/pipelines.md", "a pipeline needs no such file")
    if not isinstance(said, dict):
        return None, [Fault(1, 1, "a pipeline is a mapping: pipeline: NAME, steps: [...]", schema.MANUAL)]
    if faults := schema.faults(said, places):
        return None, faults
    declared = said.get("parameters") or {}
    values, faults = _defaults(declared, places)
    if faults:
        return None, faults
    values |= _given(declared, given)
    reader = _Reader(values, declared, places)
    filled = {**said, "steps": [reader.filled(one, ("steps", number)) for number, one in enumerate(said["steps"])]}
    # Of what parameters put in, the types are known only now.
    if faults := reader.faults or schema.faults(filled, places) or [*_steps(filled["steps"], places)]:
        return None, sorted(faults)
    steps = tuple(
        Step(one["name"], kind, one[kind], places.of(("steps", number))[0])
        for number, one in enumerate(filled["steps"])
        for kind in one
        if kind != "name"
    )
    known = {name: value for name, value in values.items() if value is not UNSET}
    unset = tuple(name for name, value in values.items() if value is UNSET)
    content = store.digest({key: value for key, value in said.items() if key != "$schema"})
    return Pipeline(path, said["pipeline"], content, known, unset, steps), []


# ---- parameters


def _defaults(declared: Mapping[str, Any], places: Places) -> tuple[dict[str, Any], list[Fault]]:
    values: dict[str, Any] = {}
    faults = []
    for name, one in declared.items():
        values[name] = one.get("default", UNSET)
        if values[name] is not UNSET:
            try:
                _fits(name, one, values[name])
            except UsageError as error:
                faults.append(Fault(*places.of(("parameters", name, "default")), str(error), error.cure))
    return values, faults


def _given(declared: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """What was typed. A path, and a model that is one, is of the folder where it was typed."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in declared:
            fault = f"there is no parameter {name!r}" if equals else f"{text!r} sets nothing"
            near = schema.nearest(name, declared)
            raise UsageError(fault, f"{near}--set NAME=VALUE; parameters: {', '.join(declared) or 'none'}")
        kind = declared[name]["type"]
        read: Any = value
        if kind == "list":
            read = [part.strip() for part in value.split(",") if part.strip()]
        elif kind in ("integer", "number", "boolean"):
            read = yaml12.scalar(value)
        elif kind == "path" or (kind == "model" and _there(value)):
            read = str(_typed(value).absolute())
        _fits(name, declared[name], read)
        found[name] = read
    return found


def _there(text: str) -> bool:
    try:
        return _typed(text).exists()
    except (OSError, ValueError):  # a name too long for the system, or with a NUL
        return False


def _typed(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a user that there is not
        return Path(text)


def _fits(name: str, declared: Mapping[str, Any], value: Any) -> None:
    """Raises UsageError for a value that is not of the parameter's type, or none of its choices."""
    kind, choices = declared["type"], declared.get("choices")
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = {
        "integer": number and isinstance(value, int),
        "number": number,
        "boolean": isinstance(value, bool),
        "list": isinstance(value, list) and all(isinstance(one, str) for one in value),
    }.get(kind, isinstance(value, str))
    if not fits:
        raise UsageError(f"the parameter {name!r} cannot be {str(value)[:100]!r}", f"it is of the type {kind}")
    if choices is not None and not all(one in choices for one in (value if kind == "list" else [value])):
        raise UsageError(f"the parameter {name!r} cannot be {str(value)[:100]!r}", f"one of: {', '.join(map(str, choices))}")
    if any("${" in text for text in _texts(value)):
        raise UsageError(f"the parameter {name!r} holds a reference", "parameters are values")


class _Reader:
    """Puts parameters in; what cannot be is a fault."""

    def __init__(self, values: Mapping[str, Any], declared: Mapping[str, Any], places: Places) -> None:
        self._values, self._declared, self._places = values, declared, places
        self.faults: list[Fault] = []

    def filled(self, value: Any, way: Way) -> Any:
        if isinstance(value, dict):
            return {key: self.filled(one, (*way, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.filled(one, (*way, number)) for number, one in enumerate(value)]
        if isinstance(value, str) and "\0" in value:
            self.faults.append(Fault(*self._places.of(way), "a text with a NUL is none", schema.MANUAL))
        return self._text(value, way) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, way: Way) -> Any:
        whole = FOUND.fullmatch(text)

        def put(match: re.Match[str]) -> str:
            name = PARAMETER.fullmatch(match[1])
            if name is None or not match[0].endswith("}"):
                if OUTPUT.fullmatch(match[1]) is None or not match[0].endswith("}"):
                    cure = "${parameters.NAME} or ${steps.NAME.OUTPUT}: names, no expressions"
                    self.faults.append(Fault(*self._places.of(way), f"{match[0][:100]!r} is no reference", cure))
                return match[0]
            value = self._value(name[1], way)
            if value is UNSET:
                return match[0]
            if isinstance(value, list):
                self.faults.append(Fault(*self._places.of(way), f"a list cannot stand within a text ({match[0]})"))
            return str(value).lower() if isinstance(value, bool) else str(value)

        if whole is not None and (name := PARAMETER.fullmatch(whole[1])) is not None and text.endswith("}"):
            value = self._value(name[1], way)
            return text if value is UNSET else value
        return FOUND.sub(put, text)

    def _value(self, name: str, way: Way) -> Any:
        if name not in self._values:
            near = schema.nearest(name, self._declared)
            cure = f"{near}parameters: {', '.join(self._declared) or 'none'}"
            self.faults.append(Fault(*self._places.of(way), f"there is no parameter {name!r}", cure))
            return UNSET
        return self._values[name]


# ---- steps


def _steps(steps: Sequence[Mapping[str, Any]], places: Places) -> Iterator[Fault]:
    outputs: dict[str, Mapping[str, Any]] = {}
    for number, one in enumerate(steps):
        way: Way = ("steps", number)
        name, kind = one["name"], next(key for key in one if key != "name")
        if name in outputs:
            yield Fault(*places.of((*way, "name")), f"two steps have the name {name!r}", "a name stands once")
            continue
        module, keys = plugins.load(ROOM, kind), one[kind]
        broken = [*_references(module, keys, (*way, kind), outputs, [each["name"] for each in steps[number:]], places)]
        yield from broken
        literal = {key: value for key, value in keys.items() if not any("${" in text for text in _texts(value))}
        # What a step above makes is unknown; values that lean on such a one are checked when it runs.
        if not broken and set(keys) - set(literal) <= set(module.INPUTS):
            try:
                checked(module, literal)
            except SlmopsError as error:
                yield Fault(*places.of((*way, kind)), str(error), error.cure)
        outputs[name] = module.outputs(keys)


def _references(
    module: Any, keys: Mapping[str, Any], way: Way, outputs: Mapping[str, Any], below: Sequence[str], places: Places
) -> Iterator[Fault]:
    """Faults of what the keys of a step refer to."""
    for key, value in keys.items():
        takes = INPUTS[module.INPUTS[key]] if key in module.INPUTS else ("text", "number")
        for place, text in _placed(value, (*way, key)):
            found = [*FOUND.finditer(text)]
            whole = len(found) == 1 and found[0][0] == text
            if takes == INPUTS["measurement"] and not whole:
                yield Fault(*places.of(place), f"{key!r} must be a reference to a measurement", "${steps.NAME.measured}")
            for match in found:
                if (fault := _leads(match[1], takes if whole else WITHIN, outputs, below)) is not None:
                    yield Fault(*places.of(place), *fault)


def _leads(text: str, takes: Sequence[str], outputs: Mapping[str, Any], below: Sequence[str]) -> tuple[str, str] | None:
    """Why a reference does not lead to an output of one of these types, and the cure; None where it does."""
    match = OUTPUT.fullmatch(text)
    if match is None:
        return None  # a parameter without a value
    name, *path = [part for part in match.groups() if part]
    if name not in outputs:
        fault = f"step {name!r} stands below" if name in below else f"there is no step {name!r}"
        return fault, f"{schema.nearest(name, outputs)}steps above: {', '.join(outputs) or 'none'}"
    here: Any = outputs[name]
    for part in path:
        if not isinstance(here, Mapping) or (part not in here and "*" not in here):
            known = [*here] if isinstance(here, Mapping) else []
            return (
                f"step {name!r} has no output {'.'.join(path)!r}",
                f"{schema.nearest(part, known)}it has: {_all(outputs[name])}",
            )
        here = here[part] if part in here else here["*"]
    if isinstance(here, Mapping):
        return f"{'.'.join(path)!r} of step {name!r} is several", f"it has: {_all(outputs[name])}"
    if here not in takes:
        return f"{'.'.join(path)!r} of step {name!r} is a {here}, and this takes: {', '.join(takes)}", ""
    return None


def _all(outputs: Mapping[str, Any], start: str = "") -> str:
    found = []
    for name, one in outputs.items():
        found.append(
            _all(one, f"{start}{name}.") if isinstance(one, Mapping) else f"{start}{'FORMAT' if name == '*' else name}"
        )
    return ", ".join(found) or "none"


def resolved(value: Any, outputs: Callable[[str, Sequence[str]], Any]) -> Any:
    """A value with what steps made in place of references to it: outputs(step, path)."""
    if isinstance(value, Mapping):
        return {key: resolved(one, outputs) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one, outputs) for one in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def of(match: re.Match[str]) -> Any:
        found = OUTPUT.fullmatch(match[1])
        if found is None:
            raise UsageError(f"{match[0]} has no value", "give it: --set NAME=VALUE")
        return outputs(found[1], [part for part in found.groups()[1:] if part])

    whole = FOUND.fullmatch(value)
    return of(whole) if whole is not None else FOUND.sub(lambda match: str(of(match)), value)


def _named(value: Any, kind: re.Pattern[str]) -> list[str]:
    """What the references of a kind in a value name first, each once."""
    inside = [match[1] for text in _texts(value) for match in FOUND.finditer(text)]
    return list(dict.fromkeys(found[1] for text in inside if (found := kind.fullmatch(text)) is not None))


def _texts(value: Any) -> Iterator[str]:
    yield from (text for _, text in _placed(value, ()))


def _placed(value: Any, way: Way) -> Iterator[tuple[Way, str]]:
    if isinstance(value, str):
        yield way, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _placed(one, (*way, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _placed(one, (*way, number))
