"""The real server on real engines, asked by Ollama's own client."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED

pytestmark = [pytest.mark.slow, needs("ollama", "starlette", "uvicorn", "xllamacpp")]
GREEDY = {"temperature": 0}


@pytest.fixture
def client(server: str) -> Any:
    import ollama

    return ollama.Client(server)


@pytest.mark.parametrize("model", ["home", "onnx", "openvino"])
def test_chat_whole_and_streamed_are_one_answer(client: Any, model: str) -> None:
    whole = client.chat(model, ASKED, options=GREEDY)
    assert json.loads(whole.message.content) == ANSWER and whole.message.role == "assistant"
    assert whole.done and whole.done_reason == "stop" and whole.model == model
    assert whole.prompt_eval_count > 5 and whole.eval_count > 5
    assert 0 < whole.eval_duration < whole.total_duration < 60e9 and whole.prompt_eval_duration > 0
    parts = list(client.chat(model, ASKED, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content and len(parts) > 1
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", whole.eval_count)


def test_generate_with_template_and_raw(client: Any) -> None:
    asked = client.generate("home:latest", ASKED[0]["content"], options=GREEDY)
    assert json.loads(asked.response) == ANSWER and asked.done_reason == "stop"
    parts = list(client.generate("home", ASKED[0]["content"], options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == asked.response
    raw = client.generate("home", "please set", raw=True, options={**GREEDY, "num_predict": 4})
    assert raw.eval_count == 4 and raw.done_reason == "length"
    system = client.generate("home", ASKED[0]["content"], system="You control a house.", options=GREEDY)
    assert system.prompt_eval_count > asked.prompt_eval_count


def test_options(client: Any) -> None:
    def drawn(**options: object) -> str:
        wild = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "num_predict": 12, **options}
        return str(client.generate("home", "the", raw=True, options=wild).response)

    assert drawn(seed=7) == drawn(seed=7) and len({drawn(), drawn(seed=-1), drawn(seed=8)}) > 1
    assert drawn(top_k=1) == drawn(temperature=0)
    stopped = client.chat("home", ASKED, options={**GREEDY, "stop": ['"arguments"']})
    assert stopped.message.content == '{"tool": "set_light", ' and stopped.done_reason == "stop"
    # What changes no answer is let pass.
    client.chat(
        "home",
        ASKED,
        options={**GREEDY, "num_gpu": 99, "num_thread": 2, "num_ctx": 256, "use_mmap": True, "num_predict": -1},
    )


def test_async_and_many_at_once(server: str) -> None:
    import ollama

    async def all_of() -> list[str]:
        client = ollama.AsyncClient(server)
        whole = await asyncio.gather(*(client.chat("home", ASKED, options=GREEDY) for _ in range(6)))
        streamed = [part.message.content async for part in await client.chat("home", ASKED, options=GREEDY, stream=True)]
        return [*(one.message.content for one in whole), "".join(streamed)]

    assert all(json.loads(one) == ANSWER for one in asyncio.run(all_of()))


def test_models(client: Any, made: Path) -> None:
    client.chat("home", ASKED, options=GREEDY)
    listed = {one.model: one for one in client.list().models}
    assert set(listed) == {"home", "onnx", "openvino"}
    size = sum(path.stat().st_size for path in (made / "gguf").iterdir())
    assert listed["home"].size == size and listed["home"].details.format == "gguf"
    assert listed["home"].details.quantization_level == "Q8_0" and listed["home"].details.parameter_size.endswith("M")
    assert "home" in {one.model for one in client.ps().models}
    shown = client.show("home:latest")
    config = json.loads((made / "gguf" / "slmops.json").read_text())["config"]
    family = config["model_type"]
    assert shown.modelinfo[f"{family}.embedding_length"] == config["hidden_size"]
    assert "completion" in shown.capabilities and "{%" in shown.template and "FROM home" in shown.modelfile


def test_loading_and_unloading(client: Any) -> None:
    assert client.chat("onnx", []).done_reason == "load"
    assert client.generate("onnx", "", keep_alive="1m").done_reason == "load"
    assert client.chat("onnx", [], keep_alive=0).done_reason == "unload"
    assert "onnx" not in {one.model for one in client.ps().models}
    assert json.loads(client.chat("onnx", ASKED, options=GREEDY, keep_alive=-1).message.content) == ANSWER


def test_errors_are_texts_and_name_the_field(client: Any, server: str) -> None:
    import ollama

    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.chat("none", ASKED)
    assert missing.value.status_code == 404
    for wrong, named in (
        ({"options": {"temperature": -1}}, "temperature"),
        ({"options": {"colour": "red"}}, "colour"),
        ({"options": {"mirostat": 1}}, "mirostat"),
        ({"options": {"num_ctx": 10_000}}, "num_ctx"),
        ({"options": {"num_predict": 0}}, "num_predict"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"think": True}, "think"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGVsbG8="]}]}, "images"),
        ({"messages": [{"role": "user", "content": "light " * 400}]}, "context 256"),
        ({"messages": [{"role": "user", "content": "light " * 400}], "stream": True}, "context 256"),
    ):
        with pytest.raises(ollama.ResponseError, match=named) as caught:
            list(client.chat(**{"model": "home", "messages": ASKED, **wrong}))
        assert caught.value.status_code == 400, wrong
    refused: dict[str, object] = {"suffix": "x", "template": "{{ .Prompt }}", "context": [1]}
    for named, value in refused.items():
        with pytest.raises(ollama.ResponseError, match=named):
            client.generate("home", "x", **{named: value})
    assert asked(f"{server}/api/show", {}) == (400, "model is required")
    assert asked(f"{server}/api/chat", {"model": "home", "messages": [], "colour": 1})[0] == 400


def asked(url: str, body: object, method: str = "POST") -> tuple[int, str]:
    """The status of a request that no client sends, and its error."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_formats_hold_the_answer(client: Any) -> None:
    room = {"type": "object", "properties": {"room": {"enum": ["attic"]}}, "required": ["room"]}
    schema = {
        "type": "object",
        "properties": {"tool": {"enum": ["set_light"]}, "arguments": room},
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }
    for model in ("home", "openvino", "onnx"):
        held = client.chat(model, ASKED, format=schema, options=GREEDY)
        assert json.loads(held.message.content)["arguments"]["room"] == "attic", model
    assert isinstance(json.loads(client.generate("home", "x", format="json", options=GREEDY).response), dict)


def test_log_probabilities(client: Any) -> None:
    whole = client.chat("home", ASKED, options={**GREEDY, "num_predict": 6}, logprobs=True, top_logprobs=2)
    assert len(whole.logprobs) == 6 and all(one.logprob <= 0 for one in whole.logprobs)
    assert all(one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 2 for one in whole.logprobs)
    parts = list(client.chat("home", ASKED, options={**GREEDY, "num_predict": 6}, logprobs=True, stream=True))
    told = [one for part in parts for one in part.logprobs or ()]
    assert [one.token for one in told] == [one.token for one in whole.logprobs]


def test_embeddings(client: Any) -> None:
    one, two = client.embed("home", ["the kitchen light", "the bedroom"]).embeddings
    assert len(one) == len(two) > 16 and sum(x * x for x in one) == pytest.approx(1, abs=1e-4)
    assert client.embed("home", "the kitchen light").embeddings[0] == pytest.approx(one, abs=1e-4)
    short = client.embed("home", "the kitchen light", dimensions=8).embeddings[0]
    assert len(short) == 8 and sum(x * x for x in short) == pytest.approx(1, abs=1e-4)
    assert client.embeddings("home", "the kitchen light").embedding == pytest.approx(one, abs=1e-4)
    assert client.embed("home", []).embeddings == []
