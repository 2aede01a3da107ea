"""OpenAI's own client asks for responses: whole, streamed, gone on with, with calls, held to a form."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED
from slmops.core.errors import SourceNotFound
from slmops.serve.wire import _responses_store
from slmops.serve.wire._responses_store import Store

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp", "openvino_genai")]

TEXT = ASKED[0]["content"]
LIGHT: Any = {
    "type": "function",
    "name": "set_light",
    "parameters": {
        "type": "object",
        "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
        "required": ["room", "level"],
        "additionalProperties": False,
    },
    "strict": True,
}
HELD = pytest.mark.parametrize("model", ["home", "openvino", "onnx"])


@pytest.fixture
def client(server: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server}/v1", api_key="none is asked for", max_retries=0)


@pytest.mark.parametrize("model", ["home", "openvino", "onnx"])
def test_whole_and_streamed_are_one_answer(client: Any, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "input": TEXT, "temperature": 0}
    whole = client.responses.create(**asked)
    assert json.loads(whole.output_text) == ANSWER and whole.status == "completed" and whole.error is None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens > 10
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text and final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text


def test_a_conversation_goes_on(client: Any) -> None:
    import openai

    create = client.responses.create
    first = create(model="home", input=TEXT, temperature=0, metadata={"who": "test"})
    assert client.responses.retrieve(first.id).output_text == first.output_text
    (item,) = client.responses.input_items.list(first.id).data
    assert item.role == "user" and TEXT in str(item.content)
    second = create(model="home", input="and to 40", previous_response_id=first.id, temperature=0, max_output_tokens=3)
    by_hand = [*ASKED, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "and to 40"}]
    again = create(model="home", input=by_hand, temperature=0, max_output_tokens=3, store=False)
    assert second.usage.input_tokens == again.usage.input_tokens and second.output_text == again.output_text
    assert second.status == "incomplete" and second.incomplete_details.reason == "max_output_tokens"
    # What a response gave can be sent back as it is.
    resent = create(
        model="home", input=[*ASKED, *first.output, {"role": "user", "content": "and to 40"}], max_output_tokens=3
    )
    assert resent.usage.input_tokens == again.usage.input_tokens
    more = create(model="home", input=TEXT, instructions="Be brief.", max_output_tokens=3)
    assert more.usage.input_tokens > first.usage.input_tokens and more.instructions == "Be brief."
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(again.id)  # store: false
    client.responses.delete(first.id)
    for gone in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
        lambda: client.responses.input_items.list(first.id),
        lambda: create(model="home", input="x", previous_response_id=first.id),
    ):
        with pytest.raises(openai.NotFoundError, match="no response"):
            gone()


@HELD
def test_calls(client: Any, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "input": TEXT, "temperature": 0, "tools": [LIGHT], "tool_choice": "required"}
    whole = client.responses.create(**asked)
    (call,) = whole.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "set_light", ANSWER["arguments"])
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert json.loads(final.output[0].arguments) == ANSWER["arguments"] and final.output[0].name == "set_light"
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    held = client.responses.create(model=model, input=[result], previous_response_id=whole.id, max_output_tokens=3)
    sent = [*ASKED, *whole.output, result]
    assert (
        held.usage.input_tokens == client.responses.create(model=model, input=sent, max_output_tokens=3).usage.input_tokens
    )


@HELD
def test_the_clients_own_parsing(client: Any, model: str) -> None:
    import pydantic

    class SetLight(pydantic.BaseModel):
        room: Literal["kitchen", "bedroom"]
        level: int

    class Answer(pydantic.BaseModel):
        tool: Literal["set_light"]
        arguments: SetLight

    found = client.responses.parse(model=model, input=TEXT, temperature=0, text_format=Answer)
    assert found.output_parsed == Answer(tool="set_light", arguments=SetLight(room="kitchen", level=30))
    some = client.responses.create(model=model, input=TEXT, temperature=0, text={"format": {"type": "json_object"}})
    assert json.loads(some.output_text) == ANSWER


def test_errors_name_what_is_wrong(client: Any) -> None:
    import openai

    for wrong, said in (
        ({"model": "none"}, "one of: home"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "no message before"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [LIGHT]}, "takes no functions"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": "light " * 400}, "context 256"),
    ):
        for stream in (False, True):
            with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=said):
                client.responses.create(**{"model": "home", "input": TEXT, "stream": stream, **wrong})


def test_the_store_is_bounded_and_each_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_responses_store, "MOST", 3)
    monkeypatch.setattr(_responses_store, "MOST_BYTES", 1000)
    store = Store()
    for index in range(5):
        store.put("ann", {"id": str(index)}, [], [])
    assert store.get("2", "ann").response == {"id": "2"}
    for wrong in (("1", "ann"), ("2", "bob"), ("none", "ann")):
        with pytest.raises(SourceNotFound):
            store.get(*wrong)
    store.put("ann", {"id": "large"}, [{"text": "x" * 900}], [])
    assert store.get("large", "ann") and store._bytes <= 1000
    store.drop("large", "ann")
    store.put("ann", {"id": "huge"}, [{"text": "x" * 2000}], [])
    with pytest.raises(SourceNotFound):
        store.get("huge", "ann")
    assert store._bytes == sum(one.size for one in store._held.values())
