"""Kinds of steps, one a file. A file holds:

HELP            what it does, in a line
SCHEMA          {"properties": ..., "required": [...]}: its keys, as JSON schema; references are let in by schema.py
INPUTS          key -> what its value leads to: one of desk.INPUTS. Keys that are not in it are parameters
CODE            raised when the same inputs and parameters would make something else
REMEMBERED      whether it runs once for the same inputs, parameters and code
JUDGES          whether what stands below waits for it, whatever it refers to
ACTS            whether it waits for all that stands above it: it changes names, or files outside the registry
outputs(keys)   what later steps may refer to: name -> one of TYPES, or a mapping of such; "*" stands for any name
plan(keys, desk)  -> Foreseen: what it would do, from headers and shapes
run(keys, desk)   -> Made. What it files in the registry is added there before it returns

and may hold

check(keys)        raises SlmopsError for values that make no sense; of what is still a reference the key is left out
SPREADS         True where it uses an executor by itself, so that it runs where the pipeline does
hangs(keys, desk)  -> what the result hangs on besides inputs, parameters and code: engines, the machine
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slmops.core.errors import SlmopsError
from slmops.measure.gates import Verdict

ROOM = "pipeline.steps"
TYPES = ("artifact", "model", "path", "text", "number", "measurement")
"""Of outputs. A model is a folder, a file or a Hub name; an artifact a digest of the registry; a measurement an object."""

STRING: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 4096}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 1 << 40}
FLAG: dict[str, Any] = {"type": "boolean"}
SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
"""Pieces of SCHEMA."""


def texts(least: int = 1) -> dict[str, Any]:
    """A list of texts."""
    return {"type": "array", "items": STRING, "minItems": least, "maxItems": 100}


def told(form: dict[str, Any], description: str) -> dict[str, Any]:
    """A piece with what editors show, and the documentation."""
    return {**form, "description": description}


@dataclass(frozen=True)
class Foreseen:
    """What a step would do."""

    said: str = ""
    outputs: dict[str, Any] | None = None
    """Where they can be told without running it."""


@dataclass(frozen=True)
class Made:
    """What came of a step."""

    outputs: dict[str, Any] = field(default_factory=dict)
    """As `outputs` promised; values are JSON."""
    said: str = ""
    verdicts: tuple[Verdict, ...] = ()
    fault: SlmopsError | None = None
    """Why the pipeline ends here: a gate, or a check, that did not hold."""
    keep: bool = True
    """False: not to be remembered, though nothing is wrong."""


def checked(module: Any, keys: dict[str, Any]) -> None:
    """The step's own `check`, where it has one."""
    if hasattr(module, "check"):
        module.check(keys)
