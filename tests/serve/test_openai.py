"""The real server on real engines, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, KEY, serving, status_of

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp")]


@pytest.fixture
def client(server: str) -> object:
    import openai

    return openai.OpenAI(base_url=f"{server}/v1", api_key="none is asked for", max_retries=0)


@pytest.mark.parametrize("model", ["home", "onnx", "openvino"])
def test_whole_and_streamed_are_one_answer(client: object, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=ASKED, temperature=0)  # type: ignore[attr-defined]
    assert json.loads(whole.choices[0].message.content) == ANSWER
    assert whole.choices[0].finish_reason == "stop" and whole.model == model and whole.id.startswith("chatcmpl-")
    assert whole.usage.prompt_tokens > 5 and whole.usage.completion_tokens > 5
    chunks = list(
        client.chat.completions.create(  # type: ignore[attr-defined]
            model=model, messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    # Pieces that come faster than they are sent become one.
    assert chunks[0].choices[0].delta.role == "assistant" and len(chunks) > 3


def test_the_helpers_of_the_client(client: object) -> None:
    with client.chat.completions.stream(model="home", messages=ASKED, temperature=0) as stream:  # type: ignore[attr-defined]
        final = stream.get_final_completion()
    assert json.loads(final.choices[0].message.content) == ANSWER


def test_limits_stops_and_seeds(client: object) -> None:
    ask = client.chat.completions.create  # type: ignore[attr-defined]
    short = ask(model="home", messages=ASKED, temperature=0, max_completion_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    stopped = ask(model="home", messages=ASKED, temperature=0, stop=['"arguments"'])
    assert stopped.choices[0].finish_reason == "stop" and stopped.choices[0].message.content == '{"tool": "set_light", '
    drawn = {ask(model="home", messages=ASKED, temperature=2, seed=7).choices[0].message.content for _ in range(2)}
    assert len(drawn) == 1
    raw = client.completions.create(model="home", prompt="please set", temperature=0, max_tokens=4)  # type: ignore[attr-defined]
    assert raw.choices[0].finish_reason == "length" and raw.usage.completion_tokens == 4


def test_many_at_once_and_async(server: str) -> None:
    import openai

    async def all_of() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0) as client:
            asked = [client.chat.completions.create(model="home", messages=ASKED, temperature=0) for _ in range(8)]  # type: ignore[arg-type, call-overload]
            return [one.choices[0].message.content for one in await asyncio.gather(*asked)]

    found = asyncio.run(all_of())
    assert len(found) == 8 and all(json.loads(one) == ANSWER for one in found)


def test_errors_are_the_clients_own_and_name_the_field(client: object) -> None:
    import openai

    ask = client.chat.completions.create  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="one of: home"):
        ask(model="none", messages=ASKED)
    for wrong, field in (
        ({"temperature": 9}, "temperature"),
        ({"n": 9}, "n"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(**{"model": "home", "messages": ASKED, **wrong})
        assert caught.value.param == field, wrong
    with pytest.raises(openai.BadRequestError, match="context 256"):
        ask(model="home", messages=[{"role": "user", "content": "light " * 400}])
    with pytest.raises(openai.BadRequestError, match="context 256"):
        list(ask(model="home", messages=[{"role": "user", "content": "light " * 400}], stream=True))
    with pytest.raises(openai.APIStatusError) as large:
        ask(model="home", messages=[{"role": "user", "content": "x" * (1 << 21)}])
    assert large.value.status_code == 413
    listed = client.models.list().data  # type: ignore[attr-defined]
    assert [one.id for one in listed] == ["home", "onnx", "openvino"]
    card = client.models.retrieve("home")  # type: ignore[attr-defined]
    assert (card.owned_by, card.context_length, card.loaded) == ("slmops", 256, True)


def test_who_leaves_frees_the_place(made: Path) -> None:
    """A long answer is left after its first token: the next one does not wait for it, streamed or not."""
    import openai

    endless = [{"role": "user", "content": "x"}]
    with serving(f"home={made / 'gguf'}", "--context", "2048") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        for stream in (True, False):
            with contextlib.suppress(openai.APITimeoutError):
                asked = client.with_options(timeout=0.5).chat.completions.create(
                    model="home", messages=endless, temperature=2, seed=1, max_tokens=1800, stream=stream  # type: ignore[arg-type, call-overload]
                )  # fmt: skip
                if stream:
                    next(iter(asked))
                    asked.close()
            again = client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type, call-overload]
            assert json.loads(again.choices[0].message.content) == ANSWER
            state = json.loads(urllib.request.urlopen(f"{url}/slmops/models", timeout=60).read())
            assert state[0]["waiting"] == 0


def test_a_killed_engine_costs_its_request_alone(made: Path) -> None:
    import openai

    with serving(f"home={made / 'gguf'}", "--context", "2048") as (url, process):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type, call-overload]
        (worker,) = [
            one for one in psutil.Process(process.pid).children(recursive=True) if "_worker" in " ".join(one.cmdline())
        ]
        worker.suspend()  # so that the request is there when it dies
        threading.Timer(1.0, worker.kill).start()
        with pytest.raises(openai.InternalServerError, match="killed by SIGKILL") as caught:
            client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type, call-overload]
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
        again = client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type, call-overload]
        assert json.loads(again.choices[0].message.content) == ANSWER


def test_keys_and_hosts(made: Path, tmp_path: Path) -> None:
    import openai

    (tmp_path / "keys").write_text(
        f"keys:\n  ann:\n    role: user\n    sha256: {hashlib.sha256(KEY.encode()).hexdigest()}\n"
    )
    with serving(f"home={made / 'gguf'}", "--keys", tmp_path / "keys") as (url, _):
        asked = {"model": "home", "messages": ASKED, "temperature": 0, "max_tokens": 2}
        for wrong in ("another", KEY[:-1], KEY + "x", ""):
            with pytest.raises((openai.AuthenticationError, openai.OpenAIError, httpx_error())):
                openai.OpenAI(base_url=f"{url}/v1", api_key=wrong, max_retries=0).chat.completions.create(**asked)  # type: ignore[call-overload]
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY).chat.completions.create(**asked)  # type: ignore[call-overload]
        for path, status in (("/health/live", 200), ("/v1/models", 401), ("/v1/../health/live", 401), ("/none", 401)):
            assert status_of(url + path) == status, path
        assert status_of(f"{url}/health/live", {"Host": "evil.example"}) == 403


def httpx_error() -> type[Exception]:
    import openai

    return openai.APIConnectionError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_finishes_what_it_computes(made: Path, number: signal.Signals) -> None:
    import openai

    with serving(f"home={made / 'gguf'}") as (url, process):
        client, found = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0), list[str]()
        stream = client.chat.completions.create(model="home", messages=ASKED, temperature=0, stream=True)  # type: ignore[arg-type, call-overload]
        first = next(iter(stream))
        threading.Timer(0.05, lambda: process.send_signal(number)).start()
        found = [first, *stream]
        text = "".join(one.choices[0].delta.content or "" for one in found)
        assert json.loads(text) == ANSWER
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        assert process.wait(timeout=30) == 0
        time.sleep(0.2)
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers)


def test_what_cannot_be_served_is_said_before_it_listens(made: Path, tmp_path: Path) -> None:
    def ended(*words: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "slmops", "serve", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert ended(tmp_path / "none")[0] == 3
    code, said = ended(made / "gguf", "--host", "0.0.0.0")
    assert code == 2 and "--keys" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = ended(made / "gguf", "--port", taken.getsockname()[1])
    assert code == 2 and "--port" in said
    (tmp_path / "keys").write_text("short\n")
    assert ended(made / "gguf", "--keys", tmp_path / "keys")[0] == 4
