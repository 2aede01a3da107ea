"""What Ollama's clients send, each field bounded, and the internal request that it means.

Fields and defaults: github.com/ollama/ollama, api/types.go (DefaultOptions) of 2026-08, and ollama-python 0.6.3.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from slmops.core import parameters
from slmops.core.errors import UsageError
from slmops.engines import Constraint, Sampling
from slmops.serve import tools
from slmops.serve.request import Request
from slmops.serve.wire._http import Body
from slmops.serve.wire._openai_body import sampled, schema

FOREVER = math.inf
NDJSON = "application/x-ndjson"
Name = Annotated[str, Field(min_length=1, max_length=300)]
Nothing = Annotated[list[Any], Field(max_length=0)] | Literal[""] | None
"""A field that is known, and may be there as long as it says nothing."""
KeepAlive = Annotated[float, Field(ge=-1e9, le=1e9)] | Annotated[str, Field(max_length=64)] | None


Options = Annotated[dict[str, Any], AfterValidator(parameters.check), WithJsonSchema(parameters.schema())]
"""Of a request, and the PARAMETERs of a Modelfile."""
USUAL = Sampling(parameters.MOST_TOKENS, 0.8, 40, 0.9)
"""What Ollama does where nothing is said."""


def fits(options: Mapping[str, Any] | None, context: int | None) -> None:
    """Raises UsageError where a larger context is asked for than the server was started with."""
    asked = (options or {}).get("num_ctx")
    if asked is not None and context is not None and asked > context:
        raise UsageError(
            f"num_ctx: {asked} is asked for, and this model is served with {context}",
            "leave it out, or start the server with --context",
        )


class CalledFunction(Body):
    index: Annotated[int | None, Field(ge=0, le=1024)] = None
    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: dict[str, Any]
    """An object, where OpenAI's are a string."""


class Call(Body):
    """A tool call of an earlier answer."""

    id: Annotated[str | None, Field(max_length=128)] = None
    type: Literal["function"] | None = None
    function: CalledFunction


class Message(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Nothing = None
    tool_name: Annotated[str | None, Field(max_length=128)] = None
    tool_call_id: Annotated[str | None, Field(max_length=128)] = None
    tool_calls: Annotated[list[Call] | None, Field(max_length=128)] = None

    def plain(self, at: int) -> dict[str, Any]:
        """As chat templates take it. at: its place, by which calls without an id are told apart."""
        if self.tool_calls and self.role != "assistant":
            raise UsageError(f"a message of the role {self.role} has no tool_calls")
        if (self.tool_name or self.tool_call_id) and self.role != "tool":
            raise UsageError("messages of the role tool, and no others, have a tool_name")
        found: dict[str, Any] = {"role": self.role, "content": self.content or ""}
        if self.tool_calls:
            found["tool_calls"] = [
                tools.call(one.id or f"call{at:03}{number:02}", one.function.name, one.function.arguments)
                for number, one in enumerate(self.tool_calls)
            ]
        if self.thinking and self.role != "assistant":
            raise UsageError("messages of the role assistant, and no others, have thinking")
        found |= {"reasoning_content": self.thinking} if self.thinking else {}
        found |= {"name": self.tool_name} if self.tool_name else {}
        return found | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {})


class Function(Body):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"] | None = None
    items: None = None
    function: Function

    def plain(self) -> dict[str, Any]:
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


class Common(Body):
    model: Name
    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    keep_alive: KeepAlive = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    # A prompt that does not fit is refused, never cut: then it does not matter which way it would be.
    truncate: bool | None = None
    shift: bool | None = None

    @property
    def streamed(self) -> bool:
        return self.stream is not False

    def asked(self, request: Request) -> Request:
        """The request with everything that the answer depends on but its prompt."""
        shown = (self.top_logprobs or 0) if self.logprobs else None
        request = dataclasses.replace(request, think=None if self.think is None else bool(self.think))
        usual = dataclasses.replace(USUAL, constraint=self.constraint(), logprobs=shown)
        options = self.options or {}
        drawn = {"seed": random.getrandbits(31)} if options.get("seed") == -1 else {}
        return sampled(request, usual, {**parameters.sampling(options), **drawn}, parameters.stops(options))

    def constraint(self) -> Constraint | None:
        if not self.format:
            return None
        if self.format == "json":
            return Constraint("json")
        return schema(self.format)


class Chat(Common):
    messages: Annotated[list[Message] | None, Field(max_length=1024)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=128)] = None

    @property
    def empty(self) -> bool:
        return not self.messages

    def request(self) -> Request:
        messages = tuple(one.plain(at) for at, one in enumerate(self.messages or []))
        offered = tuple(one.plain() for one in self.tools or ())
        return self.asked(Request(self.model, messages, tools=offered))


class Generate(Common):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: Nothing = None
    template: Nothing = None
    images: Nothing = None
    context: Nothing = None

    @property
    def empty(self) -> bool:
        return not self.prompt

    def request(self) -> Request:
        prompt = self.prompt or ""
        if self.raw and self.system:
            raise UsageError("raw mode does not support system: the prompt is continued as it stands")
        if self.raw and self.think:
            raise UsageError("raw mode does not support think: the answer is given as it comes")
        system = ({"role": "system", "content": self.system},) if self.system else ()
        messages = () if self.raw else (*system, {"role": "user", "content": prompt})
        return self.asked(Request(self.model, messages, prompt if self.raw else None))


class Embed(Body):
    """`input` of /api/embed; `prompt` of the older /api/embeddings is one of them."""

    model: Name
    input: str | Annotated[list[str], Field(max_length=2048)] | None = None
    prompt: str | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None
    truncate: bool | None = None
    """What is too long is refused, never cut."""
    dimensions: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    """0: all."""

    def texts(self) -> list[str]:
        if self.prompt is not None:
            return [self.prompt]
        return [self.input] if isinstance(self.input, str) else self.input or []


class Named(Body):
    """Who is meant: `model`, or the older `name`."""

    model: Annotated[str | None, Field(max_length=300)] = None
    name: Annotated[str | None, Field(max_length=300)] = None

    @property
    def meant(self) -> str:
        if not (found := self.model or self.name):
            raise UsageError("model is required")
        return found


class Show(Named):
    verbose: bool | None = None
    system: Nothing = None
    template: Nothing = None
    options: Annotated[dict[str, Any] | None, Field(max_length=0)] = None


UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


def seconds(said: float | str | None) -> float | None:
    """Of a duration as Go writes it (`10m`, `1h30m`, `-1s`), or a number of seconds; what is negative is FOREVER.

    None: as the server has it. Raises UsageError.
    """
    if said is None:
        return None
    if isinstance(said, str):
        text = said.strip()
        sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
        if digits.replace(".", "", 1).isdecimal() and digits.isascii():
            said = sign * float(digits)
        elif digits and not PART.sub("", digits):
            said = sign * sum(float(number) * UNITS[unit] for number, unit in PART.findall(digits))
        else:
            raise UsageError(f"keep_alive: {text[:64]!r} is no duration", 'seconds, or "10m", "1h30m"; negative: forever')
    return FOREVER if said < 0 else float(said)


def told(value: Mapping[str, Any]) -> str:
    """A line of NDJSON."""
    return json.dumps(value, ensure_ascii=False) + "\n"
