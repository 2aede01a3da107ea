"""What Ollama's clients send, each field bounded, and the internal request that it means.

Fields and defaults: github.com/ollama/ollama, api/types.go (DefaultOptions) of 2026-08, and ollama-python 0.6.3.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from slmops.core.errors import Unsupported, UsageError
from slmops.engines import Constraint, Sampling
from slmops.serve import tools
from slmops.serve.request import Request
from slmops.serve.wire._http import Body, first_fault

MOST_TOKENS = 1 << 17
MOST_SCHEMA = 64 << 10
MOST_STOPS = 16
FOREVER = math.inf
Name = Annotated[str, Field(min_length=1, max_length=300)]
Nothing = Annotated[list[Any], Field(max_length=0)] | Literal[""] | None
"""A field that is known, and may be there as long as it says nothing."""
KeepAlive = Annotated[float, Field(ge=-1e9, le=1e9)] | Annotated[str, Field(max_length=64)] | None
Whole = Annotated[int | None, Field(ge=-(1 << 31), lt=1 << 31)]


class Options(Body):
    """`options`, and the PARAMETERs of a Modelfile. Those of the second half change no answer, and are let pass."""

    num_predict: Annotated[int | None, Field(ge=-2, le=MOST_TOKENS)] = None
    """-1, -2: as many as the context has room for."""
    num_ctx: Annotated[int | None, Field(ge=1, le=1 << 30)] = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None
    """-1: another one each time."""
    stop: Annotated[str, Field(max_length=256)] | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    repeat_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    repeat_last_n: Literal[64] | None = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    # What is another way of sampling, where it asks for something, is not done.
    typical_p: Annotated[float | None, Field(ge=1, le=1)] = None
    tfs_z: Annotated[float | None, Field(ge=1, le=1)] = None
    mirostat: Literal[0] | None = None
    # Where and how fast the model computes is the server's business; Ollama has dropped some of these itself.
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    penalize_newline: bool | None = None
    num_keep: Whole = None
    num_batch: Whole = None
    num_gpu: Whole = None
    main_gpu: Whole = None
    num_thread: Whole = None
    draft_num_predict: Whole = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    embedding_only: bool | None = None

    def over(self, defaults: Options) -> Options:
        """With what a model's own parameters say, where the request says nothing."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))

    def sampling(self) -> Sampling:
        """With Ollama's own defaults."""
        if self.num_predict == 0:
            raise UsageError("num_predict is at least 1, or -1 for as many as the context has room for")

        def of(value: float | None, default: float) -> float:
            return default if value is None else value

        endless = self.num_predict is None or self.num_predict < 0
        return Sampling(
            max_tokens=MOST_TOKENS if endless else self.num_predict or 1,
            temperature=of(self.temperature, 0.8),
            top_k=40 if self.top_k is None else self.top_k,
            top_p=of(self.top_p, 0.9) or 1e-6,  # 0 leaves the likeliest alone, as llama.cpp has it
            min_p=of(self.min_p, 0.0),
            seed=secrets.randbits(31) if self.seed in (None, -1) else self.seed & 0x7FFF_FFFF,
            repeat_penalty=of(self.repeat_penalty, 1.0),
            frequency_penalty=of(self.frequency_penalty, 0.0),
            presence_penalty=of(self.presence_penalty, 0.0),
        )

    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(not 0 < len(one) <= 256 for one in found):
            raise UsageError("a stop string has 1 to 256 letters")
        return tuple(found)

    def fits(self, context: int | None) -> None:
        """Raises UsageError where a larger context is asked for than the server was started with."""
        if self.num_ctx is not None and context is not None and self.num_ctx > context:
            raise UsageError(
                f"num_ctx: {self.num_ctx} is asked for, and this model is served with {context}",
                "leave it out, or start the server with --context",
            )


def check(parameters: Mapping[str, object]) -> None:
    """Whether they are options, each within its bounds. Raises UsageError."""
    try:
        Options.model_validate(parameters)
    except ValidationError as fault:
        raise UsageError(f"PARAMETER {first_fault(fault)[1]}", "docs/ollama.md says what each may be") from None


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

    def sampled(self, options: Options) -> Sampling:
        """Everything that the answer depends on but its prompt."""
        if self.think not in (None, False):
            raise Unsupported("think: thoughts are not told apart from the answer here", "leave think out")
        shown = (self.top_logprobs or 0) if self.logprobs else None
        return dataclasses.replace(options.sampling(), constraint=self.constraint(), logprobs=shown)

    def constraint(self) -> Constraint | None:
        if not self.format:
            return None
        if self.format == "json":
            return Constraint("json")
        schema = json.dumps(self.format, ensure_ascii=False)
        if len(schema) > MOST_SCHEMA:
            raise UsageError(f"format: a schema has at most {MOST_SCHEMA:,} letters")
        return Constraint("json_schema", schema)


class Chat(Common):
    messages: Annotated[list[Message] | None, Field(max_length=1024)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=128)] = None

    @property
    def empty(self) -> bool:
        return not self.messages

    def request(self, defaults: Options) -> Request:
        options = (self.options or Options()).over(defaults)
        messages = tuple(one.plain(at) for at, one in enumerate(self.messages or []))
        offered = tuple(one.plain() for one in self.tools or ())
        return Request(self.model, messages, None, self.sampled(options), options.stops(), offered)


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

    def request(self, defaults: Options) -> Request:
        options = (self.options or Options()).over(defaults)
        prompt = self.prompt or ""
        if self.raw and self.system:
            raise UsageError("raw mode does not support system: the prompt is continued as it stands")
        system = ({"role": "system", "content": self.system},) if self.system else ()
        messages = () if self.raw else (*system, {"role": "user", "content": prompt})
        return Request(self.model, messages, prompt if self.raw else None, self.sampled(options), options.stops())


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
