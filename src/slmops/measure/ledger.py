"""Measurements kept beside what was measured: the same artifact, engine, text, cases and machine are not measured twice."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from slmops.core.errors import CorruptInput
from slmops.core.store import digest, no_space
from slmops.measure.artifact import Measured

CODE = "5"
"""Raised whenever what a measurement means changes."""


class Ledger:
    """A folder of JSON files, one a measurement, named by the digest of all that it hangs on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, facts: Mapping[str, Any]) -> Measured | None:
        """What was measured of these facts, or None. Raises CorruptInput for a file that is none of ours."""
        path = self._path(facts)
        if not path.is_file():
            return None
        try:
            return restored(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, CorruptInput) as error:
            raise CorruptInput(f"{path} is no measurement: {error}", "remove it: it is taken again") from None

    def keep(self, facts: Mapping[str, Any], measured: Measured) -> None:
        """Written whole or not at all."""
        path = self._path(facts)
        with no_space(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".partial")
            temporary.write_text(json.dumps(dataclasses.asdict(measured)), encoding="utf-8")
            temporary.replace(path)

    def _path(self, facts: Mapping[str, Any]) -> Path:
        return self._folder / f"{digest({**facts, 'code': CODE})}.json"


def data(one: Measured) -> dict[str, Any]:
    """A measurement as JSON holds it, without the losses of every token; `restored` reads it."""
    kept = dataclasses.replace(one, quality=dataclasses.replace(one.quality, losses=())) if one.quality else one
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(kept)))
    return found


def restored(facts: Any) -> Measured:
    """The measurement of such data. Raises CorruptInput for what is none."""
    try:
        return cast(Measured, _restored(Measured, facts))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptInput(f"this is no measurement: {error}", "measure again") from None


def _restored(kind: Any, facts: Any) -> Any:
    """What dataclasses.asdict and JSON made of a value of this type, as it was. Raises TypeError for what does not fit."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = [one for one in typing.get_args(kind) if one is not type(None)]
        return None if facts is None else _restored(kind, facts)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return cast(Any, kind)(**{key: _restored(hints[key], value) for key, value in facts.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(_restored(typing.get_args(kind)[0], value) for value in facts)
    if typing.get_origin(kind) is dict:
        return {key: _restored(typing.get_args(kind)[1], value) for key, value in facts.items()}
    return facts
