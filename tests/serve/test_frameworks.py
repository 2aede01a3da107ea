"""LangChain's and LiteLLM's own clients for OpenAI-compatible servers, streamed and not, async and not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED

pytestmark = [pytest.mark.slow, needs("starlette", "uvicorn", "xllamacpp")]
TEXT = ASKED[0]["content"]


@needs("langchain_openai")
def test_langchain(server: str) -> None:
    import openai
    import pydantic
    from langchain_core.messages import ToolMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    class set_light(pydantic.BaseModel):  # noqa: N801 - the function's own name
        """Set the light of a room, in percent."""

        room: str
        level: int

    class Asked(pydantic.BaseModel):
        tool: str
        arguments: set_light

    facts: dict[str, Any] = {"base_url": f"{server}/v1", "api_key": "x", "max_retries": 0}
    chat = ChatOpenAI(model="home", temperature=0, **facts)
    whole = chat.invoke(TEXT)
    assert json.loads(str(whole.content)) == ANSWER and whole.usage_metadata and whole.usage_metadata["output_tokens"] > 5
    chunks = list(chat.stream(TEXT))
    assert "".join(str(one.content) for one in chunks) == whole.content and len(chunks) > 3
    assert [one.content for one in asyncio.run(chat.abatch([TEXT, TEXT]))] == [whole.content] * 2
    bound = chat.bind_tools([set_light], tool_choice="required")
    called = bound.invoke(TEXT)
    assert [(one["name"], one["args"]) for one in called.tool_calls] == [("set_light", ANSWER["arguments"])]
    streamed = None
    for one in bound.stream(TEXT):
        streamed = one if streamed is None else streamed + one
    assert streamed is not None and streamed.tool_calls[0]["args"] == ANSWER["arguments"]
    again = chat.bind(max_tokens=3).invoke(
        [("user", TEXT), called, ToolMessage("done", tool_call_id=called.tool_calls[0]["id"])]
    )
    assert again.response_metadata["finish_reason"] == "length"
    expected = set_light(room="kitchen", level=30)
    assert chat.with_structured_output(set_light, method="function_calling").invoke(TEXT) == expected
    assert chat.with_structured_output(Asked, method="json_schema").invoke(TEXT) == Asked(
        tool="set_light", arguments=expected
    )
    responses = ChatOpenAI(model="home", temperature=0, use_responses_api=True, **facts)
    assert json.loads(str(responses.invoke(TEXT).text)) == ANSWER
    with pytest.raises(openai.NotFoundError, match="one of: home"):
        ChatOpenAI(model="none", **facts).invoke(TEXT)
    vectors = OpenAIEmbeddings(model="home", check_embedding_ctx_length=False, **facts).embed_documents(["one", "two"])
    assert len(vectors) == 2 and len(vectors[0]) == len(vectors[1]) > 8
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        OpenAIEmbeddings(model="home", **facts).client.create(input=[[1, 2]], model="home")


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    # Its list of prices would be fetched from the network when it is imported.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    yield pytest.importorskip("litellm", reason="litellm is not installed")


def test_litellm(server: str, litellm: Any) -> None:
    facts: dict[str, Any] = {"temperature": 0, "num_retries": 0, "api_key": "x"}
    openai_like: dict[str, Any] = {**facts, "model": "openai/home", "api_base": f"{server}/v1"}
    anthropic_like: dict[str, Any] = {**facts, "model": "anthropic/home", "api_base": server, "max_tokens": 60}
    for asked in (openai_like, anthropic_like):
        whole = litellm.completion(**asked, messages=ASKED)
        assert json.loads(whole.choices[0].message.content) == ANSWER and whole.usage.completion_tokens > 5
        parts = litellm.completion(**asked, messages=ASKED, stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in parts) == whole.choices[0].message.content
        later = asyncio.run(litellm.acompletion(**asked, messages=ASKED))
        assert later.choices[0].message.content == whole.choices[0].message.content
        schema = {"type": "object", "properties": {"room": {"type": "string"}, "level": {"type": "integer"}}}
        function = {"name": "set_light", "parameters": {**schema, "required": ["room", "level"]}}
        called = litellm.completion(
            **asked, messages=ASKED, tools=[{"type": "function", "function": function}], tool_choice="required"
        )
        (call,) = called.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == ANSWER["arguments"] and called.choices[0].finish_reason == "tool_calls"
        with pytest.raises(litellm.NotFoundError):
            litellm.completion(**{**asked, "model": asked["model"].replace("home", "none")}, messages=ASKED)
    vectors = litellm.embedding(model="openai/home", input=["one", "two"], api_base=f"{server}/v1", api_key="x")
    assert len(vectors.data) == 2
