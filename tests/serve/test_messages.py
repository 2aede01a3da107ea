"""Anthropic's own client on the real server with real engines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED

pytestmark = [pytest.mark.slow, needs("anthropic", "starlette", "uvicorn", "xllamacpp", "openvino_genai")]

LIGHT: Any = {
    "name": "set_light",
    "description": "Set the light of a room, in percent.",
    "input_schema": {
        "type": "object",
        "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
        "required": ["room", "level"],
    },
}
COLD = {"temperature": 0}
"""By this way, for newer clients have no word for it."""
TIMER: Any = {"name": "set_timer", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def client(server: str) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=server, api_key="none is asked for", max_retries=0)


@pytest.mark.parametrize("model", ["home", "openvino", "onnx"])
def test_whole_and_streamed_are_one_answer(client: Any, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, "max_tokens": 60, "extra_body": COLD}
    whole = client.messages.create(**asked)
    (block,) = whole.content
    assert json.loads(block.text) == ANSWER and whole.stop_reason == "end_turn" and whole.id.startswith("msg_")
    assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens > 5 and whole.usage.output_tokens > 5
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text == final.content[0].text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert whole._request_id.startswith("req_") == stream.request_id.startswith("req_")


def test_stops_limits_and_beginnings_of_answers(client: Any) -> None:
    asked: dict[str, Any] = {"model": "home", "messages": ASKED, "max_tokens": 60, "extra_body": COLD}
    stopped = client.messages.create(**asked, stop_sequences=["never", '"arguments"'])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", '"arguments"')
    assert stopped.content[0].text == '{"tool": "set_light", '
    short = client.messages.create(**{**asked, "max_tokens": 3})
    assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 3
    begun = [*ASKED, {"role": "assistant", "content": '{"tool": "set_light", "arguments": {"room": "'}]
    rest = client.messages.create(**{**asked, "messages": begun}).content[0].text
    assert json.loads(begun[-1]["content"] + rest) == ANSWER
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    counted = client.messages.count_tokens(model="home", messages=ASKED).input_tokens
    more = client.messages.count_tokens(model="home", messages=ASKED, system=system).input_tokens
    read = client.messages.create(**asked, system=system).usage
    assert counted < more == read.input_tokens + read.cache_read_input_tokens


@pytest.mark.parametrize("model", ["home", "openvino", "onnx"])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "set_light"}])
def test_tools(client: Any, model: str, choice: Any) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, "max_tokens": 60, "extra_body": COLD}
    asked |= {"tools": [TIMER, LIGHT], "tool_choice": choice}
    whole = client.messages.create(**asked)
    (use,) = whole.content
    assert (use.type, use.name, use.input) == (
        "tool_use",
        "set_light",
        ANSWER["arguments"],
    ) and whole.stop_reason == "tool_use"
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].input == ANSWER["arguments"] and final.stop_reason == "tool_use"
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "input_json" in kinds
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "done"}]}
    told = [*ASKED, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    again = client.messages.create(model=model, messages=told, max_tokens=3, extra_body=COLD)
    assert again.usage.output_tokens == 3


def test_errors_are_the_clients_own(client: Any) -> None:
    import anthropic

    asked: dict[str, Any] = {"model": "home", "messages": ASKED, "max_tokens": 5}
    with pytest.raises(anthropic.NotFoundError, match="one of: home"):
        client.messages.create(**{**asked, "model": "none"})
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    for wrong, said in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": 2}}, "temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "knows no thoughts"),
        ({"messages": [{"role": "user", "content": [image]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]}, "no message before"),
        ({"tools": [LIGHT]}, "takes no functions"),
        ({"tools": [LIGHT], "tool_choice": {"type": "tool", "name": "other"}}, "none of the tools"),
        ({"messages": [{"role": "user", "content": "light " * 400}]}, "context 256"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=said) as caught:
            client.messages.create(**{**asked, **wrong})
        assert caught.value.body["error"]["type"] == "invalid_request_error"
        assert caught.value.body["request_id"] == caught.value.request_id


def test_async(server: str) -> None:
    import anthropic

    async def asked() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=server, api_key="x", max_retries=0) as client,
            client.messages.stream(model="home", messages=ASKED, max_tokens=60, extra_body=COLD) as stream,  # type: ignore[arg-type]
        ):
            return "".join([text async for text in stream.text_stream])

    assert json.loads(asyncio.run(asked())) == ANSWER
