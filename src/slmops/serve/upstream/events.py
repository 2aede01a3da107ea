"""What another server streams, as events of ours. It is a stranger: every value is looked at before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from slmops.core.errors import Busy, EngineFailed, PolicyRefused, SlmopsError, Unreachable, Unsupported, UsageError
from slmops.serve.request import Arguments, Began, Call, Ended, Event, Logprob, Piece, Request, Thought
from slmops.serve.tools._reader import identifier

MOST_CALLS = 128
MOST_TOP = 100
MOST_COUNT = 1 << 31
AGAIN = "ask again; this answer broke off"


class Heard:
    """Takes the data of server-sent events, one after the other."""

    def __init__(self, request: Request, told: Callable[[object], str]) -> None:
        """told: what may be said of the words of the other server."""
        self._told = told
        self._chat, self._stops = request.prompt is None, request.stop
        self._must_call = bool(request.tools) and request.tool_choice == "required"
        self._began, self._reason = False, ""
        self._stop: str | None = None
        self._tokens = 0
        self._usage: tuple[int, int, int] | None = None
        self._calls = 0
        self.whole = False
        """Whether the end was told."""

    def take(self, data: str) -> list[Event]:
        """Raises EngineFailed for what is no such answer, and what the other server says of itself."""
        if data == "[DONE]":
            return self.end()
        chunk = parsed(data)
        if chunk.get("error"):
            raise _broken_off(chunk["error"], self._told)
        found: list[Event] = []
        if not self._began:
            self._began = True
            found.append(Began(0))
        choices = _list(chunk.get("choices", []), 1)
        if choices:
            found += self._choice(_object(choices[0]))
        if (usage := chunk.get("usage")) is not None:
            self._usage = _usage(_object(usage))
        return found

    def end(self) -> list[Event]:
        """Nothing more comes. Raises Unreachable where the answer is not whole, Unsupported where it should have been a
        call: llama-server leaves some templates' models free."""
        if not self._reason:
            raise Unreachable("the server that computes this model broke off in the middle of an answer", AGAIN)
        self.whole = True
        if self._must_call and not self._calls and self._reason != "length":
            raise Unsupported("the server of this model does not heed tool_choice: required", "tool_choice: auto")
        prompt, cached, tokens = self._usage or (0, 0, self._tokens)
        reason: Any = "tool_calls" if self._calls and self._reason == "stop" else self._reason
        return [Ended(reason, tokens, self._stop, Began(prompt, cached))]

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        found: list[Event] = []
        delta = _object(choice.get("delta") or {}) if self._chat else choice
        text = _text((delta.get("content") or delta.get("refusal")) if self._chat else delta.get("text"))
        # llama-server's, SGLang's and ours; vLLM's newer word.
        if self._chat and (thought := _text(delta.get("reasoning_content") or delta.get("reasoning"))):
            found.append(Thought(thought))
            self._tokens += 1
        said = choice.get("logprobs")
        told = () if said is None else (_of_chat if self._chat else _of_text)(_object(said))
        if text or told:
            found.append(Piece(text, told))
            self._tokens += 1
        for call in _list(delta.get("tool_calls") or [], MOST_CALLS) if self._chat else ():
            found += self._call(_object(call))
        if (reason := choice.get("finish_reason")) is not None:
            if reason == "content_filter":
                raise PolicyRefused("the server that computes this model withheld the rest of the answer")
            self._reason = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}.get(_text(reason), "stop")
            # vLLM's; OpenAI's own does not tell which of them it was.
            self._stop = next((one for one in self._stops if one == choice.get("stop_reason")), None)
        return found

    def _call(self, call: Mapping[str, Any]) -> list[Event]:
        index, function = call.get("index"), _object(call.get("function") or {})
        found: list[Event] = []
        if index == self._calls < MOST_CALLS:
            name, mark = _text(function.get("name")), _text(call.get("id")) or identifier()
            if not 0 < len(name) <= 128 or not 0 < len(mark) <= 128:
                garbage("a call without a name")
            self._calls += 1
            found.append(Call(self._calls - 1, mark, name))
        elif index != self._calls - 1 or isinstance(index, bool):
            garbage("calls that are not one after the other")
        if arguments := _text(function.get("arguments")):
            self._tokens += 1
            found.append(Arguments(self._calls - 1, arguments))
        return found


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises EngineFailed."""
    try:
        return _object(json.loads(text, parse_constant=lambda name: garbage(name)))
    except (ValueError, RecursionError):
        garbage("what is not JSON")


def garbage(what: str) -> NoReturn:
    """Raises EngineFailed."""
    raise EngineFailed(f"the server that computes this model sends {what}", "is it one of OpenAI's API?")


def _broken_off(error: Any, told: Callable[[object], str]) -> SlmopsError:
    """What an error in the middle of a stream is here."""
    said: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
    code, kind, text = said.get("code"), said.get("type"), told(said.get("message"))
    if code in (429, "rate_limit_exceeded"):
        return Busy(f"the server that computes this model is busy{text}", "try again in a moment", 1.0, cause="upstream")
    if kind == "invalid_request_error" or (isinstance(code, int) and 400 <= code < 500):
        return UsageError(f"the server that computes this model refuses{text}")
    return Unreachable("the server that computes this model failed in the middle of an answer", AGAIN)


def shortened(message: object) -> str:
    """The first line of what a stranger says, with a colon before it."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "") if isinstance(message, str) else ""
    return ": " + "".join(letter for letter in line[:300] if letter.isprintable()) if line else ""


def vectors(content: bytes, count: int, most: int) -> tuple[tuple[tuple[float, ...], ...], int]:
    """The vectors of an answer of /embeddings, each made 1 long, and the tokens that were read. Raises EngineFailed."""
    value = parsed(content)
    rows = [_object(one) for one in _list(value.get("data"), count)]
    if sorted(_count(one.get("index")) for one in rows) != list(range(count)):
        garbage("another number of vectors than of texts")
    found = list[tuple[float, ...]]()
    for one in sorted(rows, key=lambda one: int(one["index"])):
        vector = [_number(each) for each in _list(one.get("embedding"), most)]
        length = math.hypot(*vector)
        if not length or len(vector) != len(found[0] if found else vector):
            garbage("vectors without a direction, or of several sizes")
        found.append(tuple(each / length for each in vector))
    return tuple(found), _count(_object(value.get("usage") or {}).get("prompt_tokens", 0))


def _of_chat(said: Mapping[str, Any]) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(
            _text(one.get("token")),
            _number(one.get("logprob")),
            tuple((_text(top.get("token")), _number(top.get("logprob"))) for top in _tops(one.get("top_logprobs"))),
        )
        for one in map(_object, _list(said.get("content") or [], MOST_COUNT))
    )


def _tops(value: object) -> list[dict[str, Any]]:
    return [_object(one) for one in _list(value or [], MOST_TOP)]


def _of_text(said: Mapping[str, Any]) -> tuple[Logprob, ...]:
    words, values = _list(said.get("tokens") or [], MOST_COUNT), _list(said.get("token_logprobs") or [], MOST_COUNT)
    tops = _list(said.get("top_logprobs") or [{}] * len(words), MOST_COUNT)
    if not len(words) == len(values) == len(tops):
        garbage("logprobs of another number of tokens")
    return tuple(
        Logprob(_text(word), _number(value), tuple((key, _number(of)) for key, of in _object(top or {}).items()))
        for word, value, top in zip(words, values, tops, strict=True)
    )


def _usage(said: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens of the prompt, of these cached, and of the answer."""
    details = _object(said.get("prompt_tokens_details") or {})
    return (
        _count(said.get("prompt_tokens", 0)),
        _count(details.get("cached_tokens") or 0),
        _count(said.get("completion_tokens", 0)),
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else garbage("JSON of another form")


def _list(value: object, most: int) -> list[Any]:
    return value if isinstance(value, list) and len(value) <= most else garbage("JSON of another form")


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else garbage("JSON of another form")


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    garbage("what is no number")


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < MOST_COUNT else garbage("a count that is none")
