"""Tool calls in a model's answer. One notation a file, chosen by what the model's chat template itself writes, with

OPENS, CLOSES            what stands around a call or a list of calls, "" for nothing
BARE                     whether an answer that begins with JSON is a call without OPENS (engines leave OPENS out of their
                         text where it is a special token)
LIST                     whether the calls of an answer are one JSON list
NAMES                    keys that the name of a call's function may stand under
ARGUMENTS                the key of its arguments
writes(text) -> bool     whether a template that wrote this conversation writes this notation
told(messages, tools)    optional: (messages, tools) as this notation's templates need them, where that is not as
                         transformers gives them

`fit` makes of a request what the model is to be asked; `Reader` makes calls of what it answers, as it comes. Both know
nothing of wire formats.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from slmops.core import chat, plugins
from slmops.core.errors import CorruptInput, Unsupported, UsageError
from slmops.engines import Constraint
from slmops.run import Artifact
from slmops.serve.request import Request
from slmops.serve.tools import _schema
from slmops.serve.tools._reader import Reader
from slmops.serve.tools._schema import check as check

ROOM = "serve.tools"
PROBE = "probe_function"
_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"probe": {"type": "string"}}, "required": ["probe"]},
    },
}
_CALL = {"id": "probe0000", "type": "function", "function": {"name": PROBE, "arguments": {"probe": "probed"}}}
_ASKED = {"role": "user", "content": "Probe."}
_CALLED = (_ASKED, {"role": "assistant", "content": "", "tool_calls": [_CALL]})


@dataclass(frozen=True)
class Notation:
    """How a template's model calls functions."""

    module: ModuleType
    told: bool
    """Whether the template tells the model of the functions that it is given."""
    known: bool
    """Whether the template writes calls as `module` reads them."""


def fit(request: Request, artifact: Artifact) -> tuple[Request, Reader | None]:
    """What the model is to be asked, and what reads its answer: None where it is text alone.

    Raises Unsupported where the model's template has no place for functions, and UsageError.
    """
    offered = request.tools if request.tool_choice != "none" else ()
    if not concerned(request):
        return dataclasses.replace(request, tools=()), None
    if artifact.chat_template is None:
        raise UsageError("this model has no chat template, so it is told of no functions", "ask without tools")
    notation = notation_of(artifact.chat_template, tuple((artifact.special or {}).items()))
    module, names = notation.module, [tool["function"]["name"] for tool in offered]
    if len(set(names)) != len(names):
        raise UsageError("two of the tools have one name")
    messages, shown = getattr(module, "told", _as_they_are)(request.messages, offered if notation.told else ())
    fitted = dataclasses.replace(request, messages=tuple(messages), tools=tuple(shown))
    if not offered:
        return fitted, None
    if request.sampling.constraint is not None:
        raise Unsupported("an answer is held to a form, or may call functions: not both", "tool_choice: none, or no form")
    if request.tool_choice == "required":
        text = json.dumps(_schema.calls(offered, module, request.parallel_calls))
        sampling = dataclasses.replace(request.sampling, constraint=Constraint("json_schema", text))
        fitted = dataclasses.replace(
            fitted, sampling=sampling, opening=request.opening + (module.OPENS if notation.told else "")
        )
    elif not notation.told or not notation.known:
        fault = "takes no functions" if not notation.told else "writes calls in a notation that is not known here"
        raise Unsupported(f"the chat template of this model {fault}", "tool_choice: required, or a function by name")
    return fitted, Reader(module, names, request.parallel_calls, forced=request.tool_choice == "required")


def concerned(request: Request) -> bool:
    """Whether a request has to do with calls at all."""
    if request.tools and request.tool_choice != "none":
        return True
    return any("tool_calls" in one or one.get("role") == "tool" for one in request.messages)


@functools.lru_cache(maxsize=64)
def notation_of(template: str, special: tuple[tuple[str, str | None], ...]) -> Notation:
    """By what the template makes of a function and of a call. Raises CorruptInput for one that renders nothing at all."""
    plain = plugins.load(ROOM, "plain")
    for name in plugins.names(ROOM):
        module = plugins.load(ROOM, name)
        told = getattr(module, "told", _as_they_are)
        asked = _written(template, special, *told([_ASKED], [_TOOL]))
        if asked is None or PROBE not in asked:
            continue
        # A template that refuses to write a call has said how they are written to those that it tells of functions.
        called = _written(template, special, *told(_CALLED, [_TOOL])) or asked
        if module.writes(called):
            return Notation(module, True, True)
        if name == plain.__name__.rpartition(".")[2]:
            return Notation(plain, True, "probed" not in called)
    return Notation(plain, False, False)


def _written(template: str, special: Any, messages: Any, tools: Any) -> str | None:
    try:
        return chat.render(template, messages, special=dict(special), tools=tools)
    except CorruptInput:
        return None


def _as_they_are(messages: Any, tools: Any) -> tuple[Any, Any]:
    return messages, tools


def answered(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in which every tool's answer has the name of its function. Raises UsageError for one that was not called."""
    names: dict[str, str] = {}
    for message in messages:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool":
            if message["tool_call_id"] not in names:
                raise UsageError("a tool answers a call that no message before it makes")
            message["name"] = names[message["tool_call_id"]]
    return messages


def call(identifier: str, name: str, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
    """A call that was made, as chat templates take it: the arguments are an object. Raises UsageError."""
    try:
        held = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, Mapping) or not _schema.shallow(held):
        raise UsageError(f"the arguments of a call of {name[:64]} are not a JSON object")
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": dict(held)}}
