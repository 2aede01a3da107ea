"""What a model thinks, told apart from its answer: cut anywhere, and as official clients of three formats read it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ASKED, serving
from serve.test_ollama_tools import Words, set_light, talked
from slmops.core.errors import Unsupported
from slmops.engines import Constraint, Sampling
from slmops.run import Artifact
from slmops.serve import thoughts, tools
from slmops.serve.request import Ended, Event, Logprob, Piece, Request, Thought

TEMPLATES = Path(__file__).parent.parent / "data" / "chat-templates"
QWEN3 = (TEMPLATES / "qwen3.jinja").read_text()
# As DeepSeek R1's and its distillations' end: the thought is begun for the model, and cannot be left out.
BEGUN = "{% for message in messages %}{{ message.content.split('</think>')[-1] }}\n{% endfor %}<think>\n"
SAID = "<think>\nThe user greets me.\n</think>\n\nHello, <b>you</b>."
CALL = '<tool_call>\n{"name": "set_light", "arguments": {"room": "hall"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "set_light", "parameters": {"type": "object", "properties": {}}}}


def heard(pieces: list[str], begun: bool = False, calls: Any = None, reason: Any = "stop") -> list[tuple[str, str]]:
    """(kind, text) of what is told, neighbours of one kind joined."""
    reader, found = thoughts.Thoughts(calls, begun), list[tuple[str, str]]()
    events: list[Event] = [one for piece in [*map(Piece, pieces), Ended(reason, 1)] for one in reader.take(piece)]
    for event in events:
        kind, text = type(event).__name__, getattr(event, "text", "") or getattr(event, "name", "")
        if found and found[-1][0] == kind:
            kind, text = kind, found.pop()[1] + text
        found.append((kind, text))
    return found


WHOLE = [("Thought", "The user greets me."), ("Piece", "Hello, <b>you</b>."), ("Ended", "")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(SAID)])
def test_cut_anywhere(size: int) -> None:
    assert heard([SAID[at : at + size] for at in range(0, len(SAID), size)]) == WHOLE
    rest = SAID.removeprefix("<think>\n")
    assert heard([rest[at : at + size] for at in range(0, len(rest), size)], begun=True) == WHOLE
    with_call = SAID + CALL
    calls = tools._reader.Reader(tools.plugins.load("serve.tools", "hermes"), ["set_light"], True, forced=False)
    pieces = [with_call[at : at + size] for at in range(0, len(with_call), size)]
    assert heard(pieces, calls=calls) == [
        *WHOLE[:2],
        ("Call", "set_light"),
        ("Arguments", '{"room": "hall"}'),
        ("Ended", ""),
    ]
    for cut in range(1, len(SAID)):
        assert heard([SAID[:cut], SAID[cut:]]) == WHOLE


def test_what_is_no_thought_stays_text() -> None:
    for text in ("Hello.", " <thin", "<thinking>x</thinking>", "a <think> b </think>", "  \n x", "<"):
        assert heard(list(text)) == [("Piece", text), ("Ended", "")]
    assert heard(["<think>\n\n</think>\n\nHi."]) == [("Piece", "Hi."), ("Ended", "")]  # an empty thought is none
    assert heard(["<think>", "still at", " it </th"], reason="length") == [("Thought", "still at it </th"), ("Ended", "")]
    likely = [Logprob(letter, -1.0) for letter in " <b"]
    reader = thoughts.Thoughts(None, False)
    told = [one for each in likely for one in reader.take(Piece(each.text, (each,)))]
    assert told == [Piece(" <b", tuple(likely))]
    assert heard([]) == [("Ended", "")] and heard([" "]) == [("Piece", " "), ("Ended", "")]


def artifact(template: str) -> Artifact:
    return Artifact(Path("none"), "gguf", (0,), None, False, template, {}, 4096, 100)


def test_templates_are_tried_out() -> None:
    assert thoughts.habit_of(QWEN3, ()) == thoughts.Habit(switch=True, begun=False)
    assert thoughts.habit_of(BEGUN, ()) == thoughts.Habit(switch=False, begun=True)
    known = {path.stem for path in TEMPLATES.glob("*.jinja") if thoughts.thinks(artifact(path.read_text()))}
    assert known == {"qwen3"}
    asked = ({"role": "user", "content": "hi"},)
    assert artifact(QWEN3).prompt(asked).endswith("assistant\n") and artifact(QWEN3).prompt(asked, (), True).endswith("t\n")
    assert artifact(QWEN3).prompt(asked, (), False).endswith("<think>\n\n</think>\n\n")


def test_what_cannot_be_is_refused() -> None:
    asked = Request("x", ({"role": "user", "content": "hi"},))

    def fit(template: str, **more: Any) -> tuple[Request, Any]:
        return thoughts.fit(Request(**{**vars(asked), **more}), None, artifact(template))

    held = Sampling(constraint=Constraint("json"))
    assert fit("{{ messages }}") == (asked, None)
    assert fit(QWEN3)[0].think is None and isinstance(fit(QWEN3)[1], thoughts.Thoughts)
    # Where the form is set, the model is told not to think.
    assert fit(QWEN3, sampling=held)[0].think is False and fit(QWEN3, opening="<tool_call>")[0].think is False
    assert fit(QWEN3, sampling=held)[1] is None and fit(BEGUN, sampling=held)[0].think is None
    for template, more in (
        ("{{ messages }}", {"think": True}), (BEGUN, {"think": False}), (QWEN3, {"think": True, "sampling": held}),
        (QWEN3, {"think": True, "opening": "x"}),
    ):  # fmt: skip
        with pytest.raises(Unsupported):
            fit(template, **more)


@needs("httpx2")
def test_another_servers_thoughts() -> None:
    """As llama-server streams them (tools/server/README.md), and vLLM, which calls them `reasoning` by now."""
    from slmops.serve.upstream import body, events

    heard = events.Heard(Request("x", tuple(ASKED)), str)
    deltas = [{"reasoning_content": "Hm."}, {"reasoning": " Well."}, {"content": "Hello."}]
    lines = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    found = [event for line in lines for event in heard.take(line)]
    assert found[1:] == [Thought("Hm."), Thought(" Well."), Piece("Hello.")]
    talk = ({"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}, *ASKED)
    _, sent = body.path_and_body(Request("x", talk, think=False), "theirs")
    assert sent["chat_template_kwargs"] == {"enable_thinking": False} and sent["messages"][0]["reasoning_content"] == "Hm."


@needs("ollama", "starlette")
def test_ollamas_client() -> None:
    import ollama

    pieces = [SAID[at : at + 4] for at in range(0, len(SAID), 4)]
    models = Words(*pieces, template=QWEN3)
    whole = talked(models, lambda client: client.chat("words", ASKED, think=True))
    assert (whole.message.thinking, whole.message.content) == ("The user greets me.", "Hello, <b>you</b>.")

    async def streamed(client: Any) -> list[Any]:
        return [part async for part in await client.chat("words", ASKED, stream=True)]

    parts = talked(models, streamed)
    assert "".join(part.message.thinking or "" for part in parts) == "The user greets me." and parts[-1].done
    assert "".join(part.message.content or "" for part in parts) == "Hello, <b>you</b>."
    made = talked(models, lambda client: client.generate("words", "hi", think=True))
    assert (made.thinking, made.response) == ("The user greets me.", "Hello, <b>you</b>.")
    # What was thought goes back, and its template says it to the model where a tool's answer follows.
    talk = [*ASKED, {"role": "assistant", "thinking": "I need a light.", "content": "", "tool_calls": [
        {"function": {"name": "set_light", "arguments": {"room": "hall"}}}]}, {"role": "tool", "tool_name": "set_light",
        "content": "ok"}]  # fmt: skip
    talked(models, lambda client: client.chat("words", talk, tools=[set_light]))
    assert "<think>\nI need a light.\n</think>" in models.prompts[-1]
    talked(models, lambda client: client.chat("words", ASKED, think=False))
    assert models.prompts[-1].endswith("<think>\n\n</think>\n\n")
    with pytest.raises(ollama.ResponseError, match="knows no thoughts"):
        talked(Words("x"), lambda client: client.chat("words", ASKED, think=True))


@needs("anthropic", "starlette")
@pytest.mark.slow
def test_anthropics_client() -> None:
    import anthropic
    import httpx2
    from starlette.applications import Starlette

    from slmops.serve.access import CALLER
    from slmops.serve.desk import Desk
    from slmops.serve.logs import TRAIL
    from slmops.serve.request import Caller, Trail
    from slmops.serve.wire import messages as wire
    from slmops.serve.wire._faults import HANDLERS

    models = Words(*[SAID[at : at + 5] for at in range(0, len(SAID), 5)], template=QWEN3)
    app = Starlette(routes=wire.routes(Desk(models)), exception_handlers=HANDLERS)  # type: ignore[arg-type]

    async def let_in(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, CALLER: Caller(), TRAIL: Trail()}, receive, send)

    async def all_of() -> None:
        web = httpx2.AsyncClient(transport=httpx2.ASGITransport(let_in))
        client = anthropic.AsyncAnthropic(base_url="http://words", api_key="x", max_retries=0, http_client=web)
        asked: Any = {"model": "words", "messages": ASKED, "max_tokens": 2000}
        on: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        whole = await client.messages.create(**asked, **on)
        assert [one.type for one in whole.content] == ["thinking", "text"]
        async with client.messages.stream(**asked, **on) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        assert [one.model_dump() for one in final.content] == [one.model_dump() for one in whole.content]
        assert final.content[0].thinking == "The user greets me." and final.content[1].text == "Hello, <b>you</b>."
        assert "thinking" in kinds and kinds.count("content_block_stop") == 2
        # The answer goes back as it came.
        talk: Any = [*ASKED, {"role": "assistant", "content": whole.content}, {"role": "user", "content": "and?"}]
        await client.messages.create(**{**asked, "messages": talk})
        await client.messages.create(**asked, thinking={"type": "disabled"})
        assert models.prompts[-1].endswith("<think>\n\n</think>\n\n")

    asyncio.run(all_of())


@pytest.mark.slow
@needs("openai", "starlette", "uvicorn", "xllamacpp")
def test_a_real_engine(made: Path, tmp_path: Path) -> None:
    """The sample model thinks nothing: a regex has it write what a model that does would."""
    import openai

    from slmops.core.defaults import NAME, Defaults

    shutil.copytree(made / "gguf", tmp_path / "thinker")
    (tmp_path / "thinker" / NAME).write_text(Defaults(template=QWEN3).written())
    regex = r"<think>\n[a-z]{4,9}\n</think>\n\n(yes|no)"
    with serving(f"home={tmp_path / 'thinker'}", "--context", "512") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        ask: Any = {"model": "home", "messages": ASKED, "temperature": 0, "max_tokens": 60}
        message = client.chat.completions.create(**ask, extra_body={"regex": regex}).choices[0].message
        thought = message.model_extra["reasoning_content"]
        assert message.content in ("yes", "no") and thought.islower() and 4 <= len(thought) <= 9
        deltas = [
            one.choices[0].delta for one in client.chat.completions.create(**ask, stream=True, extra_body={"regex": regex})
        ]
        assert "".join((one.model_extra or {}).get("reasoning_content", "") for one in deltas) == thought
        assert "".join(one.content or "" for one in deltas) == message.content
        # Held to a schema, it is told not to think, and its prompt is longer for it.
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        answer = client.chat.completions.create(**ask, response_format=form)
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
        for wrong in ({"response_format": form}, {"model": "none"}):
            with pytest.raises(openai.APIStatusError):
                client.chat.completions.create(**{**ask, **wrong}, reasoning_effort="high")
        off = client.chat.completions.create(**ask, reasoning_effort="none")
        on = client.chat.completions.create(**ask, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
        assert off.usage and on.usage and off.usage.prompt_tokens > on.usage.prompt_tokens
