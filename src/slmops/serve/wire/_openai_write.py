"""How answers are written in OpenAI's chat and text completions, whole and in chunks, and what is wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from slmops.core.errors import SlmopsError
from slmops.serve.faults import Problem, problem
from slmops.serve.model import Answer
from slmops.serve.request import Arguments, Began, Call, Ended, Event, Logprob, Piece, Thought
from slmops.serve.wire._answers import Called, Whole, merged


class ChatWriter:
    """A conversation's answer."""

    prefix, object, chunk = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def whole(self, index: int, one: Whole) -> dict[str, Any]:
        message = {"role": "assistant", "content": one.text or (None if one.calls else ""), "refusal": None}
        calls = {"tool_calls": [_call(called) for called in one.calls]} if one.calls else {}
        # Not OpenAI's, who shows no thoughts; llama-server, SGLang and DeepSeek have it so.
        thought = {"reasoning_content": one.thought} if one.thought else {}
        return {"message": {**message, **thought, **calls}, "logprobs": self.logprobs(index, one.logprobs)}

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, index: int, event: Event) -> dict[str, Any]:
        match event:
            case Piece():
                return {"delta": {"content": event.text}, "logprobs": self.logprobs(index, event.logprobs)}
            case Thought():
                return {"delta": {"reasoning_content": event.text}, "logprobs": None}
            # What is said once must not be said again: clients join what comes under one name.
            case Call():
                call = {"index": event.index, **_call(Called(event))}
                return {"delta": {"tool_calls": [call]}, "logprobs": None}
            case Arguments():
                call = {"index": event.index, "function": {"arguments": event.text}}
                return {"delta": {"tool_calls": [call]}, "logprobs": None}
        return {"delta": {}, "logprobs": None}

    def logprobs(self, index: int, found: Sequence[Logprob]) -> dict[str, Any] | None:
        if not found:
            return None
        content = [
            {**_scored(one.text, one.logprob), "top_logprobs": [_scored(text, value) for text, value in one.top]}
            for one in found
        ]
        return {"content": content, "refusal": None}


class TextWriter:
    """A text that is gone on with; `echoes`: what each answer begins with."""

    prefix, object, chunk = "cmpl-", "text_completion", "text_completion"

    def __init__(self, echoes: Sequence[str]) -> None:
        self._echoes = echoes
        self._offsets = [len(one) for one in echoes]

    def whole(self, index: int, one: Whole) -> dict[str, Any]:
        return {"text": self._echoes[index] + one.text, "logprobs": self.logprobs(index, one.logprobs)}

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"text": self._echoes[index], "logprobs": None} if self._echoes[index] else None

    def piece(self, index: int, event: Event) -> dict[str, Any]:
        if not isinstance(event, Piece):
            return {"text": "", "logprobs": None}
        return {"text": event.text, "logprobs": self.logprobs(index, event.logprobs)}

    def logprobs(self, index: int, found: Sequence[Logprob]) -> dict[str, Any] | None:
        if not found:
            return None
        starts = list(itertools.accumulate((len(one.text) for one in found), initial=self._offsets[index]))
        self._offsets[index] = starts.pop()
        return {
            "tokens": [one.text for one in found],
            "token_logprobs": [one.logprob for one in found],
            "top_logprobs": [dict(one.top) for one in found],
            "text_offset": starts,
        }


Writer = ChatWriter | TextWriter


def _call(called: Called) -> dict[str, Any]:
    call = called.call
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": called.arguments}}


def _scored(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "replace"))}


def completion(head: dict[str, Any], writer: Writer, found: Sequence[Whole], each: int) -> dict[str, Any]:
    """Answers that are whole. each: how many a prompt has."""
    choices = [
        {"index": index, **writer.whole(index, one), "finish_reason": one.ended.reason} for index, one in enumerate(found)
    ]
    tokens = sum(one.ended.tokens for one in found)
    return {
        **head,
        "object": writer.object,
        "choices": choices,
        "usage": usage([one.began for one in found][::each], tokens),
    }


async def chunks(
    head: dict[str, Any], writer: Writer, answers: Sequence[Answer], each: int, with_usage: bool
) -> AsyncGenerator[str, None]:
    """Answers as server-sent events, to `[DONE]` or to an error."""

    def chunk(index: int, choice: dict[str, Any], reason: str | None = None) -> str:
        one = {"index": index, **choice, "finish_reason": reason}
        return event({**head, "object": writer.chunk, "choices": [one], **({"usage": None} if with_usage else {})})

    tokens = 0
    try:
        for index in range(len(answers)):
            if (opening := writer.opening(index)) is not None:
                yield chunk(index, opening)
        async for index, one in merged(answers):
            if one is None:
                yield ": still at work\n\n"
            elif isinstance(one, Ended):
                tokens += one.tokens
                yield chunk(index, writer.piece(index, one), one.reason)
            else:
                yield chunk(index, writer.piece(index, one))
        if with_usage:
            prompts = [one.outcome.prompt for one in answers][::each]
            yield event({**head, "object": writer.chunk, "choices": [], "usage": usage(prompts, tokens)})
        yield "data: [DONE]\n\n"
    except SlmopsError as fault:
        yield event(error(problem(fault)))


def error(problem: Problem, request: str = "") -> dict[str, Any]:
    """What is wrong."""
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    return {"error": {"message": problem.said, "type": kind, "param": problem.param, "code": problem.code}}


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def usage(began: Sequence[Began], tokens: int) -> dict[str, Any]:
    """began: one of each prompt."""
    prompt, cached = sum(one.prompt_tokens for one in began), sum(one.cached_tokens for one in began)
    counts = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}
