"""Another server computes: a real one behind a real one, asked by OpenAI's client; and servers that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import fakeserver
from needs import needs
from serve.serving import ANSWER, ASKED, KEY, serving
from slmops.core.errors import UsageError
from slmops.engines import _llamacpp_serve
from slmops.serve import setup

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp")]

BEHIND = "the-key-of-the-server-behind"
VARIABLE = "SLMOPS_TEST_KEY"
LIGHT = {
    "type": "function",
    "function": {
        "name": "set_light",
        "parameters": {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen"]}, "level": {"type": "integer"}},
            "required": ["room", "level"],
        },
    },
}


def keys(path: Path, key: str) -> Path:
    path.write_text(f"keys:\n  ann:\n    role: admin\n    sha256: {hashlib.sha256(key.encode()).hexdigest()}\n")
    return path


def openai(url: str, key: str = "none is asked for") -> Any:
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def both(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Any]]:
    """Clients of the server behind, and of the one before it; and the process of the one behind."""
    out = tmp_path_factory.mktemp("upstream")
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(f"home={made / 'gguf'}", "--keys", keys(out / "behind", BEHIND), "--context", "256") as (behind, process),
    ):
        patch.setenv(VARIABLE, BEHIND)
        words = (f"big={behind}/v1#home", f"wrong={behind}/v1#home", f"none={behind}/v1#nothing", made / "onnx")
        given = ("--upstream-key", f"big={VARIABLE}", "--upstream-key", f"none={VARIABLE}")
        with serving(*words, *given, "--keys", keys(out / "front", KEY), "--context", "256") as (front, _):
            yield openai(behind, BEHIND), openai(front, KEY), process


def test_whole_and_streamed_are_what_is_answered_behind(both: Any) -> None:
    behind, front, _ = both
    whole = behind.chat.completions.create(model="home", messages=ASKED, temperature=0)
    found = front.chat.completions.create(model="big", messages=ASKED, temperature=0)
    assert json.loads(found.choices[0].message.content) == ANSWER and found.model == "big"
    assert found.choices[0].message.content == whole.choices[0].message.content
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )
    chunks = list(
        front.chat.completions.create(
            model="big", messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    drawn = {"seed": 7, "temperature": 0.5, "extra_body": {"top_k": 3}}
    for more in ({"stop": ['"arguments"']}, {"max_tokens": 3}, {"logprobs": True, "top_logprobs": 2}, drawn):
        asked = {"messages": ASKED, "temperature": 0, **more}
        ones = [one.chat.completions.create(model=name, **asked) for one, name in ((behind, "home"), (front, "big"))]
        assert ones[0].choices[0].model_dump() == ones[1].choices[0].model_dump(), more
    texts = [
        one.completions.create(model=name, prompt="please set", temperature=0, max_tokens=4, logprobs=1)
        for one, name in ((behind, "home"), (front, "big"))
    ]
    assert texts[0].choices[0].model_dump() == texts[1].choices[0].model_dump() and texts[1].usage.completion_tokens == 4


def test_calls_forms_and_vectors(both: Any) -> None:
    behind, front, _ = both
    for stream in (False, True):
        asked = {"messages": ASKED, "temperature": 0, "tools": [LIGHT], "tool_choice": "required", "stream": stream}
        answer = front.chat.completions.create(model="big", parallel_tool_calls=False, **asked)
        if stream:
            deltas = [call for one in answer if one.choices for call in one.choices[0].delta.tool_calls or []]
            assert deltas[0].function.name == "set_light" and deltas[0].id
            arguments = "".join(one.function.arguments for one in deltas)
        else:
            (call,) = answer.choices[0].message.tool_calls
            assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "set_light"
            arguments = call.function.arguments
        assert set(json.loads(arguments)) == {"room", "level"}
    # The call and what came of it go back as they came.
    told = [*ASKED, answer_of(call), {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    ones = [
        one.chat.completions.create(model=name, messages=told, temperature=0, max_tokens=5)
        for one, name in ((behind, "home"), (front, "big"))
    ]
    assert ones[0].choices[0].message.content == ones[1].choices[0].message.content
    assert ones[0].usage.prompt_tokens == ones[1].usage.prompt_tokens
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["lamp", "shade"]}}}
    held = front.chat.completions.create(model="big", messages=ASKED, response_format=form)
    assert json.loads(held.choices[0].message.content) in ("lamp", "shade")
    vectors = [
        one.embeddings.create(model=name, input=["a lamp", "a door"]) for one, name in ((behind, "home"), (front, "big"))
    ]
    for ours, theirs in zip(vectors[1].data, vectors[0].data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)
    assert vectors[0].usage.prompt_tokens == vectors[1].usage.prompt_tokens


def asked(front: Any, path: str, body: dict[str, Any] | None = None) -> str:
    url = str(front.base_url).removesuffix("/v1/") + path
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    content = json.dumps(body).encode() if body is not None else None
    return urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=60).read().decode()


def test_the_other_wire_formats_metrics_and_state(both: Any) -> None:
    _, front, _ = both
    said = json.loads(asked(front, "/v1/messages", {"model": "big", "messages": ASKED, "max_tokens": 64, "temperature": 0}))
    assert json.loads(said["content"][0]["text"]) == ANSWER
    assert said["usage"]["input_tokens"] + said["usage"]["cache_read_input_tokens"] > 5
    said = json.loads(asked(front, "/v1/responses", {"model": "big", "input": ASKED[0]["content"], "temperature": 0}))
    assert json.loads(said["output"][0]["content"][0]["text"]) == ANSWER and said["usage"]["input_tokens"] > 5
    greedy = {"model": "big", "options": {"temperature": 0}}
    lines = asked(front, "/api/chat", {**greedy, "messages": ASKED}).splitlines()
    assert json.loads("".join(json.loads(one)["message"]["content"] for one in lines)) == ANSWER
    assert json.loads(lines[-1])["prompt_eval_count"] > 5
    # Ollama's answers of tools name no call.
    call = {"function": {"name": "set_light", "arguments": {"room": "kitchen", "level": 30}}}
    told = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "done"}]
    asked(front, "/api/chat", {**greedy, "messages": told})
    measured = asked(front, "/metrics").splitlines()
    (tokens,) = [one for one in measured if one.startswith("slmops_prompt_tokens_total{") and 'model_name="big"' in one]
    assert 'engine="upstream"' in tokens and float(tokens.rpartition(" ")[2]) > 20
    states = {one["name"]: one for one in json.loads(asked(front, "/slmops/models"))}
    assert states["big"]["engine"] == "upstream" and states["big"]["memory"] == 0 and states["big"]["running"] == 0
    assert BEHIND not in json.dumps(states)


def answer_of(call: Any) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": call.id, "type": "function", "function": function}]}


def test_what_cannot_be_asked_is_refused_by_name_and_keys_stay_apart(both: Any) -> None:
    import openai

    _, front, _ = both
    ask = front.chat.completions.create
    for more, said in (
        ({"extra_body": {"regex": "a+"}}, "regex has no field"),
        ({"extra_body": {"grammar": "root ::= \"a\""}}, "grammar has no field"),
        ({"extra_body": {"repetition_penalty": 1.2}}, "repeat_penalty has no field"),
        ({"messages": [{"role": "user", "content": "light " * 400}]}, "refuses: .*context 256"),
        ({"model": "none"}, "no such model or route: no model 'nothing'"),
    ):  # fmt: skip
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=said):
                list(ask(**{"model": "big", "messages": ASKED, "stream": stream, **more}))
    with pytest.raises(
        openai.InternalServerError, match="the engine failed"
    ) as caught:  # this server's key is not sent there
        ask(model="wrong", messages=ASKED)
    assert caught.value.status_code == 500 and BEHIND not in str(caught.value)
    names = {one.id: one for one in front.models.list().data}
    assert list(names) == ["big", "wrong", "none", "onnx"] and names["big"].context_length is None


def test_the_server_behind_is_killed_in_mid_stream(both: Any) -> None:
    """The last test with it."""
    import openai

    _, front, process = both
    ask = front.chat.completions.create
    stream = ask(model="big", messages=[{"role": "user", "content": "x"}], temperature=2, seed=1, stream=True)
    next(iter(stream))
    process.kill()
    with pytest.raises(openai.APIError, match=r"cannot be reached|broke off") as caught:
        list(stream)
    assert caught.value.body["code"] == "unreachable"  # type: ignore[index, call-overload]
    with pytest.raises(openai.InternalServerError, match="cannot be reached") as refused:
        ask(model="big", messages=ASKED)
    assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "1"
    found = ask(model="onnx", messages=ASKED, temperature=0)
    assert json.loads(found.choices[0].message.content) == ANSWER


@contextlib.contextmanager
def llama(file: Path) -> Iterator[str]:
    """llama.cpp's own server, which knows nothing of us."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    asked = {"file": str(file), "port": port, "context": 256, "parallel": 2, "threads": 2, "cache_mib": 0}
    asked |= {"device": "cpu", "kv": "", "embeds": False, "pools": False, "adapters": []}
    command = [sys.executable, "-P", _llamacpp_serve.__file__, json.dumps(asked)]
    with subprocess.Popen(command, env={**os.environ, "LLAMA_API_KEY": BEHIND}, stdout=-3, stderr=-3) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).status == 200:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_a_server_that_is_none_of_ours(made: Path) -> None:
    import openai as library

    (file,) = (made / "gguf").glob("*.gguf")
    with llama(file) as url, serving(f"far={url}/v1#any", "--upstream-key", f"far={VARIABLE}") as (front, _):
        theirs, ours = openai(url, BEHIND), openai(front)
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["lamp", "shade"]}}}
        for more in (
            {},
            {"stop": ['"arguments"']},
            {"max_tokens": 3},
            {"response_format": schema},
        ):
            asked: dict[str, Any] = {"messages": ASKED, "temperature": 0, **more}
            one, other = (
                theirs.chat.completions.create(model="any", **asked),
                ours.chat.completions.create(model="far", **asked),
            )
            (first,), (second,) = one.choices, other.choices
            assert (first.message.content or "") == (second.message.content or ""), more
            assert first.finish_reason == second.finish_reason, more
            assert one.usage.completion_tokens == other.usage.completion_tokens
            assert one.usage.prompt_tokens == other.usage.prompt_tokens
        asked = {"messages": ASKED, "temperature": 0, "logprobs": True, "top_logprobs": 2, "max_tokens": 4}
        scored = [one.chat.completions.create(model="far", **asked).choices[0].logprobs.content for one in (theirs, ours)]
        assert [(one.token, one.logprob) for one in scored[0]] == [(one.token, one.logprob) for one in scored[1]]
        asked = {"prompt": "please set", "temperature": 0, "max_tokens": 6}
        texts = [one.completions.create(model="far", **asked).choices[0] for one in (theirs, ours)]
        assert texts[0].text == texts[1].text and texts[0].finish_reason == texts[1].finish_reason == "length"
        with pytest.raises(library.BadRequestError, match="does not heed tool_choice"):  # with this template it does not
            ours.chat.completions.create(model="far", messages=ASKED, temperature=0, tools=[LIGHT], tool_choice="required")
        with pytest.raises(library.BadRequestError, match="context size"):
            ours.chat.completions.create(model="far", messages=[{"role": "user", "content": "light " * 400}])
        with pytest.raises(library.BadRequestError, match="no such model or route"):  # it was not started with --embeddings
            ours.embeddings.create(model="far", input="a")


# Servers that misbehave


class Handler(BaseHTTPRequestHandler):
    """Answers as `does` says, and notes what it was asked."""

    does: Callable[[Handler], None]
    asked: list[tuple[str, dict[str, str], dict[str, Any]]]

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, dict(self.headers), body))
        with contextlib.suppress(OSError):
            type(self).__dict__["does"](self)

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "text/event-stream", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def say(self, *values: object) -> None:
        for one in values:
            self.wfile.write(b"data: " + (one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n\n")


def chunk(text: str = "", reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


@contextlib.contextmanager
def misbehaving(does: Callable[[Handler], None]) -> Iterator[tuple[str, list[Any]]]:
    asked: list[Any] = []
    with fakeserver.running(Handler, does=does, asked=asked) as url:
        yield url, asked


def answered(url: str, *, silent: float = 5.0, request: Any = None, most: int = 4) -> tuple[str, Any]:
    """Text, and how it ended: a reason, or what was raised."""
    import asyncio

    from slmops.serve.answer import Answer
    from slmops.serve.names import Remote
    from slmops.serve.request import Caller, Ended, Outcome, Piece, Request
    from slmops.serve.upstream import Upstream

    async def ask() -> tuple[str, Any]:
        model = Upstream("far", Remote(url, "m", VARIABLE), most, silent)
        answer = Answer(Outcome(request or Request("far", ({"role": "user", "content": "hi"},)), Caller()), lambda _: None)
        text = ""
        try:
            model.take(answer)
            while not isinstance(event := await answer.next(), Ended):
                text += event.text if isinstance(event, Piece) else ""
            return text, event
        except Exception as fault:
            return text, fault
        finally:
            await asyncio.to_thread(model.close, 5.0)
            assert model.running == 0

    return asyncio.run(asyncio.wait_for(ask(), 20))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, BEHIND)


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}


def good(handler: Handler) -> None:
    handler.begin()
    handler.wfile.write(b": still at work\r\n\r\nevent: x\r\n")
    handler.say(chunk("o"), chunk("k"), chunk(reason="stop"), USAGE, b"[DONE]")


def test_a_plain_answer_and_what_is_asked_for() -> None:
    from slmops.serve.request import Began

    with misbehaving(good) as (url, asked):
        text, ended = answered(f"{url}/v1")
    assert (text, ended.reason, ended.tokens, ended.prompt) == ("ok", "stop", 2, Began(7, 3))
    ((path, headers, body),) = asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {BEHIND}"
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.0, "seed": 0, "max_tokens": 128,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_calls_come_as_calls() -> None:
    from slmops.serve.request import Arguments, Call, Request
    from slmops.serve.upstream.events import Heard

    def delta(*calls: dict[str, Any], reason: str | None = None) -> str:
        return json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": reason}]})

    # As OpenAI's reference has them: the name once, the arguments in pieces, one call after the other.
    heard = Heard(Request("m", tools=(LIGHT,), tool_choice="required"), str)
    found = [
        *heard.take(delta({"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}})),
        *heard.take(delta({"index": 0, "function": {"arguments": '{"a":'}})),
        *heard.take(delta({"index": 0, "function": {"arguments": " 1}"}})),
        *heard.take(delta({"index": 1, "id": "call_b", "function": {"name": "g", "arguments": "{}"}}, reason="stop")),
        *heard.take("[DONE]"),
    ]
    assert found[1:-1] == [
        Call(0, "call_a", "f"),
        Arguments(0, '{"a":'),
        Arguments(0, " 1}"),
        Call(1, "call_b", "g"),
        Arguments(1, "{}"),
    ]
    assert found[-1].reason == "tool_calls" and heard.whole  # type: ignore[union-attr]


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    def does(handler: Handler) -> None:
        handler.begin(code, Content_Length=str(len(body)), **headers)
        handler.wfile.write(body)

    return does


def says(*values: object, kind: str = "text/event-stream") -> Callable[[Handler], None]:
    def does(handler: Handler) -> None:
        handler.begin(Content_Type=kind)
        handler.say(*values)

    return does


def endless_line(handler: Handler) -> None:
    handler.begin()
    handler.wfile.write(b"data: ")
    while True:
        handler.wfile.write(b"x" * 65536)


def endless_event(handler: Handler) -> None:
    handler.begin()
    while True:
        handler.wfile.write(b"data:\n" * 10_000)


def endless_fault(handler: Handler) -> None:
    handler.begin(400)
    while True:
        handler.wfile.write(b"x" * 65536)


QUOTES = json.dumps({"error": {"message": f"bad\x07 field of {BEHIND}\nsecond line " + "x" * 999}}).encode()


@pytest.mark.parametrize(
    ("does", "kind", "said"),
    [
        (status(500), "Unreachable", "answers 500"),
        (status(503), "Unreachable", "answers 503"),
        (status(429, Retry_After="17"), "Busy", "busy"),
        (status(401, QUOTES), "EngineFailed", "refuses the key"),
        (status(403), "EngineFailed", "refuses the key"),
        (status(404), "Unsupported", "no such model or route"),
        (status(501), "Unsupported", "no such model or route"),
        (status(400, QUOTES), "UsageError", r"refuses: bad field of \*\*\*$"),
        (status(422, b"<html>"), "UsageError", "refuses$"),
        (status(307, Location="http://127.0.0.1:1/elsewhere"), "EngineFailed", "answers 307, and is not followed"),
        (status(200, b"{}", Content_Encoding="gzip"), "EngineFailed", "compressed"),
        (endless_fault, "UsageError", "refuses$"),
        (endless_line, "EngineFailed", "an event of more than"),
        (says(chunk("a"), kind="application/json"), "EngineFailed", "where a stream was asked for"),
        (says(chunk("a")), "Unreachable", "broke off"),
        (says(b"{"), "EngineFailed", "not JSON"),
        (says(b"[" * 100_000), "EngineFailed", "not JSON"),
        (says([1]), "EngineFailed", "another form"),
        (says({"choices": [{"delta": {"content": 5}}]}), "EngineFailed", "another form"),
        (says({"choices": [{"delta": {"tool_calls": [{"index": 7}]}}]}), "EngineFailed", "one after the other"),
        (says({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}), "EngineFailed", "without a name"),
        (says({"choices": [{"logprobs": {"content": [{"token": "a"}]}}]}), "EngineFailed", "number"),
        (says(b'{"choices": [{"logprobs": {"content": [{"token": "a", "logprob": NaN}]}}]}'), "EngineFailed", "NaN"),
        (says(chunk("a", "stop"), {"choices": [], "usage": {"prompt_tokens": -1}}), "EngineFailed", "count"),
        (says(chunk("a", "content_filter")), "PolicyRefused", "withheld"),
        (says(chunk("a"), {"error": {"message": "x", "code": "engine_crashed"}}), "Unreachable", "in the middle"),
        (says(chunk("a"), {"error": {"message": "full", "code": 429}}), "Busy", "busy: full"),
        (says({"error": {"message": BEHIND, "type": "invalid_request_error"}}), "UsageError", r"refuses: \*\*\*$"),
        (endless_event, "EngineFailed", "an event of more than"),
        (lambda handler: handler.wfile.write(b"\x00\xff garbage\r\n\r\n"), "Unreachable", "cannot be reached"),
        (lambda handler: handler.begin(X=("y" * 70_000)), "EngineFailed|Unreachable", ""),
    ],
)  # fmt: skip
def test_what_a_server_may_do_wrong(does: Callable[[Handler], None], kind: str, said: str) -> None:
    with misbehaving(does) as (url, asked):
        _, fault = answered(url)
    import re

    assert re.fullmatch(kind, type(fault).__name__) and re.search(said, str(fault)), repr(fault)
    assert len(asked) == 1 and BEHIND not in str(fault) and len(str(fault)) < 500


def test_when_to_come_again_is_passed_on() -> None:
    for said, seconds in (("17", 17), ("soon", 1), ("999999999", 86400)):
        with misbehaving(status(429, Retry_After=said)) as (url, _):
            assert answered(url)[1].seconds == seconds


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": [1, "x"]}]}',
        b'{"data": [{"index": 0, "embedding": [0, 0]}]}',
        b'{"data": [{"index": 0, "embedding": [1e999]}]}',
        b'{"data": [{"index": 5, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3, 4]}]}',
    ],
)
def test_vectors_that_are_none(said: bytes) -> None:
    from slmops.core.errors import EngineFailed
    from slmops.serve.upstream.events import vectors

    with pytest.raises(EngineFailed):
        vectors(said, 1, 3)
    assert vectors(b'{"data": [{"index": 0, "embedding": [3, 4]}]}', 1, 3) == (((0.6, 0.8),), 0)


def test_one_that_dawdles_and_one_that_is_left() -> None:
    import asyncio

    from slmops.serve.answer import Answer
    from slmops.serve.names import Remote
    from slmops.serve.request import Began, Caller, Outcome, Piece, Request
    from slmops.serve.upstream import Upstream

    left = threading.Event()

    def dawdles(handler: Handler) -> None:
        handler.begin()
        handler.say(chunk("a"))
        handler.connection.settimeout(10)
        left.clear()
        with contextlib.suppress(OSError):
            if handler.connection.recv(1) == b"":
                left.set()

    with misbehaving(dawdles) as (url, _):
        begun = time.monotonic()
        text, fault = answered(url, silent=0.3)
        assert text == "a" and type(fault).__name__ == "Unreachable" and time.monotonic() - begun < 5
        assert left.wait(5)

        async def leave() -> None:
            model = Upstream("far", Remote(url, "m"), 1)
            request = Request("far", ({"role": "user", "content": "hi"},))
            answer = Answer(Outcome(request, Caller()), lambda _: None)
            model.take(answer)
            assert isinstance(await answer.next(), Began) and isinstance(await answer.next(), Piece)
            with pytest.raises(Exception, match="1 requests are at far already"):
                model.take(Answer(Outcome(request, Caller()), lambda _: None))
            answer.cancel()
            assert model.running == 0
            assert await asyncio.to_thread(left.wait, 2)
            await asyncio.to_thread(model.close)

        left.clear()
        asyncio.run(leave())


def test_nothing_is_asked_until_a_request_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)
        port = listening.getsockname()[1]
        with serving(f"far=http://127.0.0.1:{port}/v1#m", "--pin", "far") as (url, _):
            assert [one.id for one in openai(url).models.list().data] == ["far"]
            tags = json.loads(urllib.request.urlopen(f"{url}/api/tags", timeout=60).read())
            assert [one["name"] for one in tags["models"]] == ["far"]
            assert urllib.request.urlopen(f"{url}/health/ready", timeout=60).status == 200
        with pytest.raises(TimeoutError):
            listening.accept()


def test_what_names_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slmops.serve.names import Entry, Remote

    usual = Entry("")
    assert setup.entry("big=https://h.example/v1/#org/m", usual).source == Remote("https://h.example/v1", "org/m")
    assert setup.entry("https://h.example/v1#m", usual).name == "m"
    assert setup.entry("org/m:1=https://h.example/v1#a=b", usual) == replace(
        usual, name="org/m:1", source=Remote("https://h.example/v1", "a=b")
    )
    for wrong, said in (
        ("big=https://h.example/v1", "names no model"),
        ("big=https://h.example/v1?key=x#m", "names no model"),
        ("big=https://ann:word@h.example/v1#m", "a user or a password"),
        ("big=http://h.example/v1#m", "can be read on its way"),
        ("big=http://localhost.example/v1#m", "can be read on its way"),
    ):
        with pytest.raises(UsageError, match=said):
            setup.entry(wrong, usual)
    file = tmp_path / "serve.yaml"

    def read(more: str) -> Any:
        file.write_text(f"models:\n  - name: big\n    source: http://10.0.0.7/v1#m\n{more}")
        return setup.read(file, usual).entries[0]

    assert read("    plain_http: true\n    key_env: K\n").source == Remote("http://10.0.0.7/v1", "m", "K")
    with pytest.raises(UsageError, match="engine is of a model that is computed here"):
        read("    plain_http: true\n    engine: mlx\n")
    with pytest.raises(UsageError, match="can be read on its way"):
        read("")
    file.write_text("models:\n  - name: home\n    key_env: K\n")
    with pytest.raises(UsageError, match="key_env is of a model of another server"):
        setup.read(file, usual)
    with pytest.raises(UsageError, match="no model of another server"):
        setup.keyed([usual], ["big=K"])
    from slmops.serve.upstream import Upstream

    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UsageError, match=f"no key in {VARIABLE}"):
        Upstream("big", Remote("https://h.example/v1", "m", VARIABLE), 1)
    monkeypatch.setenv(VARIABLE, "two words")
    with pytest.raises(UsageError, match="no key in") as caught:
        Upstream("big", Remote("https://h.example/v1", "m", VARIABLE), 1)
    assert "two" not in str(caught.value)
