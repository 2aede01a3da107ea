"""What OpenAI's own client asks beyond plain answers: calls of functions, answers held to a form, several, likelihoods."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any, Literal

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, serving

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp", "openvino_genai")]

ROOMS = {"type": "string"}
LIGHT: Any = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Set the light of a room, in percent.",
        "parameters": {
            "type": "object",
            "properties": {"room": ROOMS, "level": {"type": "integer"}},
            "required": ["room", "level"],
        },
    },
}
TIMER: Any = {"type": "function", "function": {"name": "set_timer", "parameters": {"type": "object", "properties": {}}}}
NAMED: Any = {"type": "function", "function": {"name": "set_light"}}
HELD = pytest.mark.parametrize("model", ["home", "openvino", "onnx"])
"""Models on engines that hold an answer to a form."""


@pytest.fixture
def client(server: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server}/v1", api_key="none is asked for", max_retries=0)


@HELD
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_come(client: Any, model: str, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": ASKED,
        "tools": [TIMER, LIGHT],
        "tool_choice": choice,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    (call,) = whole.message.tool_calls
    assert call.function.name == "set_light" and json.loads(call.function.arguments) == ANSWER["arguments"]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None and call.id
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.name == "set_light" and final.finish_reason == "tool_calls"
    assert json.loads(final.message.tool_calls[0].function.arguments) == ANSWER["arguments"]
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    # The conversation goes on with what the client itself made of the answer.
    told = [*ASKED, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    again = client.chat.completions.create(model=model, messages=told, temperature=0, max_tokens=4)
    assert again.usage.completion_tokens == 4


@HELD
def test_the_clients_own_parsing(client: Any, model: str) -> None:
    import openai
    import pydantic

    class SetLight(pydantic.BaseModel):
        room: Literal["kitchen", "bedroom"]
        level: int

    class Answer(pydantic.BaseModel):
        tool: Literal["set_light", "set_timer"]
        arguments: SetLight

    asked: dict[str, Any] = {"model": model, "messages": ASKED, "temperature": 0}
    parsed = client.chat.completions.parse(**asked, response_format=Answer).choices[0].message.parsed
    assert parsed == Answer(tool="set_light", arguments=SetLight(room="kitchen", level=30))
    tool = openai.pydantic_function_tool(SetLight, name="set_light")
    called = client.chat.completions.parse(**asked, tools=[tool], tool_choice="required").choices[0].message
    assert called.tool_calls[0].function.parsed_arguments == SetLight(room="kitchen", level=30)


@HELD
def test_answers_are_held_to_a_form(client: Any, model: str) -> None:
    import openai

    def ask(**form: Any) -> str:
        found = client.chat.completions.create(model=model, messages=ASKED, temperature=0, **form)
        return str(found.choices[0].message.content)

    assert ask(extra_body={"regex": "(never|always) [0-9]{3}"})[:6] in ("never ", "always")
    if model == "onnx":
        with pytest.raises(openai.BadRequestError, match="constraint grammar"):
            ask(extra_body={"grammar": 'root ::= "left" | "right"'})
    else:
        assert ask(extra_body={"grammar": 'root ::= "left" | "right"'}) in ("left", "right")
    assert json.loads(ask(response_format={"type": "json_object"})) == ANSWER
    room = {
        "type": "object",
        "properties": {"room": {"enum": ["bedroom"]}},
        "required": ["room"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"tool": {"enum": ["set_light"]}, "arguments": room},
        "additionalProperties": False,
    }
    schema["required"] = ["tool", "arguments"]
    for form in ({"name": "x", "schema": schema, "strict": True}, json.dumps(schema)):
        found = json.loads(ask(response_format={"type": "json_schema", "json_schema": form}))
        assert found == {"tool": "set_light", "arguments": {"room": "bedroom"}}


@HELD
def test_likelihoods(client: Any, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, "temperature": 0, "max_tokens": 4, "logprobs": True}
    whole = client.chat.completions.create(**asked).choices[0]
    found = whole.logprobs.content
    assert "".join(one.token for one in found) == whole.message.content and len(found) == 4
    assert all(one.logprob <= 1e-4 and bytes(one.bytes).decode() == one.token for one in found)
    chunks = [one.choices[0] for one in client.chat.completions.create(**asked, stream=True)]
    streamed = [one for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in found]
    assert all(math.isclose(a.logprob, b.logprob, abs_tol=0.05) for a, b in zip(streamed, found, strict=True))
    text = client.completions.create(model=model, prompt="please set", temperature=0, max_tokens=3, logprobs=0).choices[0]
    assert "".join(text.logprobs.tokens) == text.text
    assert [text.text[at:][: len(one)] for at, one in zip(text.logprobs.text_offset, text.logprobs.tokens, strict=True)] == (
        text.logprobs.tokens
    )


def test_what_an_engine_cannot_is_refused(client: Any) -> None:
    import openai

    for asked in ({"frequency_penalty": 1}, {"extra_body": {"min_p": 0.5}}):
        with pytest.raises(openai.BadRequestError, match="onnxruntime cannot do this") as caught:
            client.chat.completions.create(model="onnx", messages=ASKED, **asked)
        assert caught.value.code == "unsupported" and caught.value.request_id.startswith("req_")
    for asked, said in (
        ({"tools": [LIGHT]}, "takes no functions"),
        ({"tools": [LIGHT], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "none of the tools"),
        ({"tool_choice": "required"}, "no tools"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"regex": "x"}}, "one of them"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "no message before"),
        ({"messages": [{"role": "user"}]}, "has content"),
        ({"extra_body": {"grammar": "x" * 9000}}, "at most 8192"),
        ({"response_format": {"type": "json_schema", "json_schema": "[1]"}}, "not a JSON object"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.chat.completions.create(**{"model": "openvino", "messages": ASKED, **asked})


@pytest.mark.parametrize("model", ["home", "openvino", "onnx"])
def test_several_answers(client: Any, model: str) -> None:
    unsure = [{"role": "user", "content": "x"}]
    asked: dict[str, Any] = {"model": model, "messages": unsure, "n": 3, "temperature": 2, "seed": 5, "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    assert [one.index for one in whole.choices] == [0, 1, 2] and whole.usage.completion_tokens <= 18
    texts = [one.message.content for one in whole.choices]
    assert len(set(texts)) > 1
    one = client.chat.completions.create(**{**asked, "n": 1})
    assert model != "onnx" or one.choices[0].message.content == texts[0]
    assert one.usage.prompt_tokens == whole.usage.prompt_tokens
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert all(streamed) and chunk.usage.prompt_tokens == whole.usage.prompt_tokens
    if model == "onnx":  # answers that are computed together differ in their last bits, and then in what is drawn
        assert streamed == texts and chunk.usage.completion_tokens == whole.usage.completion_tokens


def test_texts_that_are_gone_on_with(client: Any) -> None:
    create = client.completions.create
    asked: dict[str, Any] = {"model": "home", "temperature": 0, "max_tokens": 3}
    first, second = (create(**asked, prompt=one).choices[0].text for one in ("please set", "turn on"))
    both = create(**asked, prompt=["please set", "turn on"], echo=True)
    assert [one.text for one in both.choices] == [f"please set{first}", f"turn on{second}"]
    parts = list(create(**asked, prompt="please set", echo=True, stream=True))
    assert "".join(one.choices[0].text for one in parts) == f"please set{first}"
    assert create(**asked, prompt=[1, 2, 3]).usage.prompt_tokens == 3
    assert len(create(**asked, prompt=[[1, 2, 3], [4, 5]]).choices) == 2
    import openai

    with pytest.raises(openai.BadRequestError, match="tokens of this model"):
        create(**asked, prompt=[1, 1 << 20])


def test_embeddings(client: Any) -> None:
    import openai

    texts = ["turn on the light", "switch the light on", "what is the weather"]
    packed = client.embeddings.create(model="home", input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="home", input=texts, encoding_format="float")
    assert all(a.embedding == pytest.approx(b.embedding, abs=1e-6) for a, b in zip(plain.data, packed.data, strict=True))
    assert all(math.isclose(math.hypot(*one.embedding), 1, abs_tol=1e-3) for one in plain.data)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 3 and [one.index for one in plain.data] == [0, 1, 2]
    raw = client.embeddings.with_raw_response.create(model="home", input="x", encoding_format="base64").http_response.json()
    held = base64.b64decode(raw["data"][0]["embedding"])
    assert len(held) % 4 == 0 and math.isclose(math.hypot(*struct.unpack(f"<{len(held) // 4}f", held)), 1, abs_tol=1e-3)
    for wrong, said in (({"input": [1, 2]}, "not tokens"), ({"input": ""}, "not empty"), ({"dimensions": 8}, "dimensions")):
        with pytest.raises(openai.BadRequestError, match=said):
            client.embeddings.create(**{"model": "home", "input": "x", **wrong})


def test_async_and_awaited_together(server: str) -> None:
    import openai

    async def asked() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0) as client:

            async def one() -> str:
                text = ""
                stream = await client.chat.completions.create(model="openvino", messages=ASKED, temperature=0, stream=True)  # type: ignore[arg-type]
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                return text

            return list(await asyncio.gather(*(one() for _ in range(6))))

    assert [json.loads(one) for one in asyncio.run(asked())] == [ANSWER] * 6


def test_a_template_that_tells_of_functions(made: Path, tmp_path: Path) -> None:
    """The sample under Qwen's template: a call that must come is begun as that template writes it."""
    import openai

    shutil.copytree(made / "gguf", tmp_path / "qwen")
    receipt = json.loads((tmp_path / "qwen" / "slmops.json").read_text())
    receipt["chat_template"] = (Path(__file__).parent.parent / "data" / "chat-templates" / "qwen2.5.jinja").read_text()
    (tmp_path / "qwen" / "slmops.json").write_text(json.dumps(receipt))
    with serving(tmp_path / "qwen", "--context", "512") as (url, _):
        client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        asked: dict[str, Any] = {"model": "qwen", "messages": ASKED, "temperature": 0, "max_tokens": 60}
        none = client.chat.completions.create(**asked).usage.prompt_tokens
        may = client.chat.completions.create(**asked, tools=[LIGHT, TIMER])
        assert may.usage.prompt_tokens > none + 50  # it is told of them
        assert may.choices[0].finish_reason == "stop" and not may.choices[0].message.tool_calls
        # It was never trained on such a prompt, so nothing is left open in which it could ramble.
        few = {"room": {"enum": ["kitchen", "bedroom"]}, "level": {"enum": [30, 40]}}
        schema = {"type": "object", "properties": few, "required": ["room", "level"], "additionalProperties": False}
        held = {"type": "function", "function": {"name": "set_light", "parameters": schema}}
        must = client.chat.completions.create(**asked, tools=[held, TIMER], tool_choice="required")
        (call,) = must.choices[0].message.tool_calls
        assert call.function.name == "set_light" and json.loads(call.function.arguments)["room"] in ("kitchen", "bedroom")
        may = client.chat.completions.create(**asked, tools=[held, TIMER])
        assert must.usage.prompt_tokens > may.usage.prompt_tokens  # <tool_call> stands before the answer
        told = [*ASKED, must.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
        again = client.chat.completions.create(**{**asked, "messages": told}, tools=[LIGHT], parallel_tool_calls=False)
        assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")
