"""The body of OpenAI's /v1/responses, and the internal request that it is read into."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from slmops.engines import Constraint, Sampling
from slmops.serve import tools
from slmops.serve.request import Request
from slmops.serve.wire._http import Body
from slmops.serve.wire._openai_body import (
    MOST_TOKENS,
    MOST_TOOLS,
    AnyJson,
    FunctionName,
    Identifier,
    Model,
    PlainText,
    schema,
    with_tools,
)

Status = Literal["in_progress", "completed", "incomplete"]


class Part(Body):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[Any] | None, Field(max_length=0)] = None
    logprobs: Annotated[list[Any] | None, Field(max_length=0)] = None


class Said(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Field(max_length=64)]
    # Of answers that are sent back.
    id: Identifier | None = None
    status: Status | None = None
    phase: None = None


class Called(Body):
    type: Literal["function_call"]
    call_id: Identifier
    name: FunctionName
    arguments: str
    id: Identifier | None = None
    status: Status | None = None
    caller: None = None
    namespace: None = None


class Returned(Body):
    type: Literal["function_call_output"]
    call_id: Identifier
    output: str | Annotated[list[Part], Field(max_length=64)]
    id: Identifier | None = None
    status: Status | None = None


Item = Said | Called | Returned


class Tool(Body):
    type: Literal["function"]
    name: FunctionName
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Makes no difference: who must call is held to the schema, who may is not."""

    def plain(self) -> dict[str, Any]:
        function = self.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedTool(Body):
    type: Literal["function"]
    name: FunctionName


class JsonSchema(Body):
    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    strict: bool | None = None
    """Makes no difference: the answer is held to the schema."""


class TextForm(Body):
    format: Annotated[PlainText | AnyJson | JsonSchema, Field(discriminator="type")] | None = None


class StreamOptions(Body):
    include_obfuscation: bool = False


class Create(Body):
    """The body of POST /v1/responses."""

    model: Model
    input: str | Annotated[list[Item], Field(min_length=1, max_length=1024)]
    instructions: Annotated[str | None, Field(max_length=1 << 20)] = None
    previous_response_id: Identifier | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextForm | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    store: bool | None = None
    truncation: Literal["disabled"] | None = None
    # What changes no answer.
    background: Literal[False] | None = None
    include: Annotated[list[str] | None, Field(max_length=0)] = None
    metadata: Annotated[dict[str, str] | None, Field(max_length=16)] = None
    user: Annotated[str | None, Field(max_length=512)] = None
    service_tier: Annotated[str | None, Field(max_length=64)] = None
    safety_identifier: Annotated[str | None, Field(max_length=512)] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=512)] = None

    def items(self) -> list[Item]:
        return [Said(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    def request(self, before: Sequence[Mapping[str, Any]]) -> tuple[Request, list[dict[str, Any]]]:
        """The request, and the conversation without instructions, which hold for one response. Raises UsageError.

        before: the conversation that it goes on with."""
        messages = [dict(one) for one in before]
        for item in self.items():
            _add(messages, item)
        tools.answered(messages)
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        form = self.text.format if self.text is not None else None
        constraint = schema(form.schema_) if isinstance(form, JsonSchema) else None
        sampling = Sampling(
            max_tokens=self.max_output_tokens or MOST_TOKENS,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=0,
            top_p=self.top_p or 1.0,
            seed=secrets.randbits(31),
            constraint=Constraint("json") if isinstance(form, AnyJson) else constraint,
        )
        found = Request(
            self.model,
            (*instructions, *messages),
            sampling=sampling,
            parallel_calls=self.parallel_tool_calls is not False,
        )
        choice = self.tool_choice.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        return with_tools(found, [one.plain() for one in self.tools or []], choice), messages

    def told(self) -> dict[str, Any]:
        """What a response repeats of what it was asked."""
        given = self.model_dump(
            include={
                "model", "instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "metadata",
                "user", "tools",
            }
        )  # fmt: skip
        choice = self.tool_choice
        return {
            **given,
            "tools": given["tools"] or [],
            "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "text": self.text.model_dump(by_alias=True, exclude_none=True) if self.text else {"format": {"type": "text"}},
            "truncation": "disabled",
            "store": self.store is not False,
        }


def _add(messages: list[dict[str, Any]], item: Item) -> None:
    """An item as a message, as chat templates take it: calls belong to the assistant's message before them."""
    match item:
        case Said():
            role = "system" if item.role == "developer" else item.role
            messages.append({"role": role, "content": _joined(item.content)})
        case Returned():
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
        case Called():
            call = tools.call(item.call_id, item.name, item.arguments)
            if messages and messages[-1]["role"] == "assistant":
                messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _joined(content: str | Sequence[Part]) -> str:
    return content if isinstance(content, str) else "".join(one.text for one in content)


def answer(output: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items of a response as messages of the conversation that goes on. Calls that were cut off are left out."""
    messages: list[dict[str, Any]] = []
    for one in output:
        if one["type"] == "message":
            messages.append({"role": "assistant", "content": "".join(part["text"] for part in one["content"])})
        elif one["status"] == "completed":
            _add(messages, Called.model_validate(one))
    return messages
