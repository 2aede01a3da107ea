"""A request as OpenAI's API has it. What the API has no field for is refused by name, never left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from slmops.core.errors import Unsupported, UsageError
from slmops.core.parameters import MOST_TOKENS
from slmops.engines import Constraint
from slmops.serve.request import Request


def path_and_body(request: Request, model: str) -> tuple[str, dict[str, Any]]:
    """Where a request goes, and what is sent; the answer is a stream. model: as the other server calls it.

    top_k and min_p are not OpenAI's, but are called so by vLLM, llama-server and slmops alike.

    Raises Unsupported, UsageError.
    """
    sampling = request.sampling
    for there, what, cure in (
        (request.opening, "the beginning of an answer", "let the last message be the user's"),
        (sampling.repeat_penalty != 1.0, "repeat_penalty", "frequency_penalty or presence_penalty"),
    ):
        if there:
            raise Unsupported(f"{what} has no field in OpenAI's API, which the server of this model is asked by", cure)
    body: dict[str, Any] = {
        "model": model,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.max_tokens < MOST_TOKENS:  # else as many as there is room for, which the other server alone knows
        body["max_tokens"] = sampling.max_tokens
    neutral = {"top_p": 1.0, "min_p": 0.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    # A greedy answer is the likeliest token each time, of however many.
    neutral |= {"top_k": sampling.top_k if sampling.temperature == 0 else 0}
    body |= {name: value for name, usual in neutral.items() if (value := getattr(sampling, name)) != usual}
    if request.stop:
        body["stop"] = list(request.stop)
    if request.prompt is not None:
        if sampling.constraint is not None:
            raise Unsupported("a prompt without messages is held to no form by OpenAI's API", "ask with messages")
        body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
        if sampling.logprobs is not None:
            body["logprobs"] = sampling.logprobs
        return "/completions", body
    body["messages"] = messages(request.messages)
    if sampling.logprobs is not None:
        body |= {"logprobs": True} | ({"top_logprobs": sampling.logprobs} if sampling.logprobs else {})
    if request.think is not None:  # not OpenAI's either; vLLM, SGLang, llama-server and slmops have it
        body["chat_template_kwargs"] = {"enable_thinking": request.think}
    if sampling.constraint is not None:
        body["response_format"] = _form(sampling.constraint)
    if request.tools:
        body |= {"tools": list(request.tools), "tool_choice": request.tool_choice}
        if not request.parallel_calls:
            body["parallel_tool_calls"] = False
    return "/chat/completions", body


def messages(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation. A tool's answer that does not say which call it is to, as Ollama's do not, is to the first of its
    name that has none yet. Raises Unsupported, UsageError."""
    found, open_calls = list[dict[str, Any]](), list[tuple[str, str]]()
    for message in given:
        unknown = set(message) - {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}
        if unknown:
            raise Unsupported(f"{min(unknown)} of a message has no field in OpenAI's API", "leave it out")
        one: dict[str, Any] = {"role": message["role"], "content": message.get("content", "")}
        one |= {"reasoning_content": message["reasoning_content"]} if "reasoning_content" in message else {}
        if calls := message.get("tool_calls"):
            one |= {"content": one["content"] or None, "tool_calls": [_called(call) for call in calls]}
            open_calls += [(call["id"], call["function"]["name"]) for call in calls]
        if message["role"] == "tool":
            known, name = message.get("tool_call_id"), message.get("name")
            fit = [call for call in open_calls if call[0] == known or (known is None and name in (None, call[1]))]
            if not fit:
                raise UsageError("a tool answers a call that no message before it makes")
            open_calls.remove(fit[0])
            one["tool_call_id"] = fit[0][0]
        found.append(one)
    return found


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _form(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json":
        return {"type": "json_object"}
    if constraint.kind == "json_schema":
        held = {"name": "answer", "schema": json.loads(constraint.text), "strict": True}
        return {"type": "json_schema", "json_schema": held}
    raise Unsupported(
        f"an answer held to a {constraint.kind} has no field in OpenAI's API, which the server of this model is asked by",
        "response_format with a JSON schema has one",
    )
