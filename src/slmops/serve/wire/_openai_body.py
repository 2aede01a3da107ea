"""The bodies of OpenAI's chat and text completions, and the internal requests that they are read into."""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import Annotated, Any, Literal

from pydantic import Field

from slmops.core.errors import UsageError
from slmops.engines import Constraint, Sampling
from slmops.serve import tools
from slmops.serve.request import Request
from slmops.serve.wire._http import Body

MOST_TOKENS = 1 << 17
MOST_ANSWERS = 8
"""Of one request."""
MOST_TOOLS = 128
MOST_GRAMMAR = 8 << 10
MOST_SCHEMA = 64 << 10
"""Letters of a JSON schema."""
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
Identifier = Annotated[str, Field(min_length=1, max_length=128)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1, max_length=MOST_TOKENS)]
Model = Annotated[str, Field(min_length=1, max_length=300)]


class Part(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: FunctionName
    arguments: str


class ToolCall(Body):
    id: Identifier
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
    """Of streamed calls, which some clients send back as they came."""


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(max_length=64)] | None = None
    name: Annotated[str | None, Field(max_length=64)] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(max_length=MOST_TOOLS)] = None
    tool_call_id: Identifier | None = None
    # What answers of this API have beside their text, sent back with them.
    refusal: None = None
    annotations: Annotated[list[Any] | None, Field(max_length=0)] = None
    audio: None = None
    function_call: None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates take it; `developer` is OpenAI's newer word for `system`."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        found: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.role != "assistant" and (self.content is None or self.tool_calls):
            raise UsageError(f"a message of the role {self.role} has content, and no calls")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise UsageError("messages of the role tool, and no others, have a tool_call_id")
        if self.tool_calls:
            found["tool_calls"] = [tools.call(one.id, one.function.name, one.function.arguments) for one in self.tool_calls]
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        return found


class Function(Body):
    name: FunctionName
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Makes no difference: who must call is held to the schema, who may is not."""


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class PlainText(Body):
    type: Literal["text"]


class AnyJson(Body):
    type: Literal["json_object"]


class Schema(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    strict: bool | None = None
    """Makes no difference: the answer is held to the schema."""


class JsonSchema(Body):
    type: Literal["json_schema"]
    json_schema: Schema | Annotated[str, Field(max_length=MOST_SCHEMA)]
    """As a text: what Foundry Local's clients send."""


Format = Annotated[PlainText | AnyJson | JsonSchema, Field(discriminator="type")]


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class Common(Body):
    model: Model
    max_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None
    stop: Annotated[str, Field(max_length=256)] | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=MOST_ANSWERS)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    # Not OpenAI's, under the names that vLLM and llama-server have for them; top_k 0 is off.
    top_k: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=2)] = None
    grammar: Annotated[str | None, Field(min_length=1, max_length=MOST_GRAMMAR)] = None
    regex: Annotated[str | None, Field(min_length=1, max_length=MOST_GRAMMAR)] = None
    # What changes no answer.
    user: Annotated[str | None, Field(max_length=512)] = None
    metadata: Annotated[dict[str, str] | None, Field(max_length=16)] = None
    store: bool | None = None
    service_tier: Annotated[str | None, Field(max_length=64)] = None
    safety_identifier: Annotated[str | None, Field(max_length=512)] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=512)] = None

    def sampling(self, most: int | None, logprobs: int | None = None, form: Constraint | None = None) -> Sampling:
        forms = [form] if form is not None else []
        forms += [Constraint("grammar", self.grammar)] if self.grammar is not None else []
        forms += [Constraint("regex", self.regex)] if self.regex is not None else []
        if len(forms) > 1:
            raise UsageError("response_format, grammar and regex: one of them")
        return Sampling(
            max_tokens=most or MOST_TOKENS,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            seed=secrets.randbits(31) if self.seed is None else self.seed & 0x7FFF_FFFF,
            min_p=self.min_p or 0.0,
            repeat_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logprobs=logprobs,
            constraint=forms[0] if forms else None,
        )

    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(not 0 < len(one) <= 256 for one in found):
            raise UsageError("a stop string has 1 to 256 letters")
        return tuple(found)


class Chat(Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    response_format: Format | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]] | None, Field(max_length=1)] = None

    def requests(self) -> list[Request]:
        """One for each answer that is wanted. Raises UsageError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise UsageError("top_logprobs needs logprobs")
        messages = tuple(tools.answered([one.plain() for one in self.messages]))
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        form = constraint(self.response_format)
        sampling = self.sampling(self.max_completion_tokens or self.max_tokens, logprobs, form)
        offered = [one.model_dump(exclude_none=True) for one in self.tools or []]
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        found = Request(
            self.model, messages, sampling=sampling, stop=self.stops(), parallel_calls=self.parallel_tool_calls is not False
        )
        return several(with_tools(found, offered, chosen), self.n or 1)


class Completion(Common):
    """The body of /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_ANSWERS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_ANSWERS)]
    )
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        many = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        found: Any = self.prompt if many else [self.prompt]
        return list(found)

    def requests(self) -> list[Request]:
        """One for each prompt and each answer of it that is wanted. Raises UsageError."""
        if len(self.prompts) * (self.n or 1) > MOST_ANSWERS:
            raise UsageError(f"a request has at most {MOST_ANSWERS} answers: prompts times n")
        if self.echo and self.logprobs is not None:
            raise UsageError("logprobs are of what is generated", "leave echo or logprobs out")
        # 16 is OpenAI's own default here.
        sampling = self.sampling(self.max_tokens or 16, self.logprobs)
        prompts = [one if isinstance(one, str) else tuple(one) for one in self.prompts]
        if self.echo and not all(isinstance(one, str) for one in prompts):
            raise UsageError("echo is of texts, not of tokens")
        asked = [Request(self.model, (), one, sampling, self.stops()) for one in prompts]
        return [one for request in asked for one in several(request, self.n or 1)]


def several(request: Request, count: int) -> list[Request]:
    """The request so many times, each drawn from a seed of its own."""
    seeds = [(request.sampling.seed + index) & 0x7FFF_FFFF for index in range(count)]
    return [dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=seed)) for seed in seeds]


def with_tools(request: Request, offered: list[dict[str, Any]], choice: str | None) -> Request:
    """The request with functions. choice: none, auto, required, or the name of one of them. Raises UsageError."""
    if choice in (None, "auto", "none", "required"):
        if choice == "required" and not offered:
            raise UsageError("tool_choice is required, and there are no tools")
        mode: Any = choice or "auto"
        return dataclasses.replace(request, tools=tuple(offered), tool_choice=mode)
    named = [one for one in offered if one["function"]["name"] == choice]
    if not named:
        raise UsageError(f"tool_choice names {choice}, which is none of the tools")
    return dataclasses.replace(request, tools=tuple(named), tool_choice="required", parallel_calls=False)


def constraint(form: PlainText | AnyJson | JsonSchema | None) -> Constraint | None:
    """What an answer in that form must be. Raises UsageError."""
    match form:
        case AnyJson():
            return Constraint("json")
        case JsonSchema():
            given = form.json_schema
            return schema(given if isinstance(given, str) else given.schema_ or {})
    return None


def schema(given: dict[str, Any] | str) -> Constraint:
    """Held to a JSON schema, as an object or as a text. Raises UsageError."""
    try:
        found = json.loads(given) if isinstance(given, str) else given
        text = json.dumps(found, ensure_ascii=False)
    except (ValueError, RecursionError):
        found, text = None, ""
    if not isinstance(found, dict):
        raise UsageError("response_format: the JSON schema is not a JSON object")
    tools.check(found)
    if len(text) > MOST_SCHEMA:
        raise UsageError(f"response_format: a JSON schema has at most {MOST_SCHEMA:,} letters")
    return Constraint("json_schema", text)
