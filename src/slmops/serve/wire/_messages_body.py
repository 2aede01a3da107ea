"""The bodies of Anthropic's Messages API, and the internal request that they are read into."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from slmops.core.errors import UsageError
from slmops.engines import Constraint, Sampling
from slmops.serve import tools
from slmops.serve.request import Request
from slmops.serve.wire._http import Body
from slmops.serve.wire._openai_body import MOST_TOKENS, MOST_TOOLS, FunctionName, Identifier, Model, schema, with_tools


class CacheControl(Body):
    """Changes no answer: what an engine keeps of a prompt, it keeps."""

    type: Literal["ephemeral"]
    ttl: Annotated[str | None, Field(max_length=16)] = None


class Block(Body):
    cache_control: CacheControl | None = None


class Text(Block):
    type: Literal["text"]
    text: str
    citations: None = None


class ToolUse(Block):
    type: Literal["tool_use"]
    id: Identifier
    name: FunctionName
    input: dict[str, Any]
    caller: Annotated[dict[str, str] | None, Field(max_length=4)] = None
    toolset_name: None = None


class ToolResult(Block):
    type: Literal["tool_result"]
    tool_use_id: Identifier
    content: str | Annotated[list[Text], Field(max_length=64)] = ""
    is_error: bool | None = None
    toolset_name: None = None


class Message(Body):
    role: Literal["user", "assistant", "system"]
    content: (
        str
        | Annotated[
            list[Annotated[Text | ToolUse | ToolResult, Field(discriminator="type")]], Field(min_length=1, max_length=256)
        ]
    )

    def plain(self) -> list[dict[str, Any]]:
        """As chat templates take it: results of tools are messages of their own, before what the user says to them."""
        blocks = [Text(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        results = [one for one in blocks if isinstance(one, ToolResult)]
        uses = [one for one in blocks if isinstance(one, ToolUse)]
        if (uses and self.role != "assistant") or (results and self.role != "user"):
            raise UsageError("messages: the assistant uses tools, the user gives their results")
        found: list[dict[str, Any]] = [
            {"role": "tool", "tool_call_id": one.tool_use_id, "content": joined(one.content)} for one in results
        ]
        texts = [one for one in blocks if isinstance(one, Text)]
        if texts or uses:
            said: dict[str, Any] = {"role": self.role, "content": joined(texts)}
            if uses:
                said["tool_calls"] = [tools.call(one.id, one.name, one.input) for one in uses]
            found.append(said)
        return found


class Tool(Block):
    name: FunctionName
    input_schema: dict[str, Any]
    description: Annotated[str | None, Field(max_length=1 << 16)] = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    """Makes no difference: who must call is held to the schema, who may is not."""

    def plain(self) -> dict[str, Any]:
        told = {"description": self.description} if self.description is not None else {}
        return {"type": "function", "function": {"name": self.name, **told, "parameters": self.input_schema}}


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["disabled"]


class Form(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class Output(Body):
    format: Form | None = None


class Metadata(Body):
    user_id: Annotated[str | None, Field(max_length=512)] = None


class Prompt(Body):
    """What both a message and a count are asked with: the body of /v1/messages/count_tokens."""

    model: Model
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    system: str | Annotated[list[Text], Field(max_length=64)] | None = None
    tools: Annotated[list[Tool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: Output | None = None
    cache_control: CacheControl | None = None

    def request(self) -> Request:
        """Raises UsageError."""
        messages = [plain for one in self.messages for plain in one.plain()]
        if self.system:
            messages.insert(0, {"role": "system", "content": joined(self.system)})
        opening = ""
        if messages and messages[-1]["role"] == "assistant":
            # The last message is the beginning of the answer.
            if "tool_calls" in messages[-1]:
                raise UsageError("messages: after a tool_use comes its tool_result")
            opening = messages.pop()["content"]
        choice = self.tool_choice or ToolChoice(type="auto")
        if (choice.type == "tool") != (choice.name is not None):
            raise UsageError("tool_choice: the type tool, and no other, has a name")
        found = Request(
            self.model,
            tuple(tools.answered(messages)),
            opening=opening,
            parallel_calls=not choice.disable_parallel_tool_use,
        )
        wanted = {"any": "required", "tool": choice.name}.get(choice.type, choice.type)
        return with_tools(found, [one.plain() for one in self.tools or []], wanted)

    def constraint(self) -> Constraint | None:
        form = self.output_config.format if self.output_config is not None else None
        return schema(form.schema_) if form is not None else None


class Create(Prompt):
    """The body of /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=8)] | None = None
    stream: bool | None = False
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def sampling(self) -> Sampling:
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            seed=secrets.randbits(31),
            constraint=self.constraint(),
        )


def joined(content: str | Sequence[Text]) -> str:
    """The text of a content."""
    return content if isinstance(content, str) else "".join(one.text for one in content)
