"""Tool calls as Ollama's own client reads them: the sample model writes none, so the model's words are given here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from needs import needs

pytestmark = needs("ollama", "starlette")
TEMPLATE = (Path(__file__).parent.parent / "data" / "chat-templates" / "qwen2.5.jinja").read_text()
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
ASKED = [{"role": "user", "content": "Set the light to 30 percent, please."}]


def set_light(room: str, level: int) -> str:
    """Set the light of a room.

    Args:
      room: which
      level: in percent
    """
    return f"{room}: {level}"


class Words:
    """A server's models, of which one answers with these pieces."""

    names, registry = ["words"], False

    def __init__(self, *pieces: str, template: str = TEMPLATE) -> None:
        from slmops.run import Artifact
        from slmops.serve import thoughts, tools

        artifact = Artifact(Path("none"), "gguf", (0,), None, False, template, SPECIAL, 4096, 100)
        self.pieces, self.prompts = pieces, list[str]()
        self.model = SimpleNamespace(
            artifact=artifact,
            defaults=artifact.defaults,
            context=4096,
            served={},
            take=self._take,
            thinks=thoughts.thinks(artifact),
            fitted=lambda request: thoughts.fit(*tools.fit(request, artifact), artifact),
        )

    def find(self, name: str) -> Any:
        from slmops.core.errors import SourceNotFound

        if name not in self.names:
            raise SourceNotFound(f"no model {name!r}", "one of: words")
        return SimpleNamespace(name=name, place="none", digest="")

    def get(self, name: str) -> Any:
        return self.model

    at_hand = get

    def _take(self, answer: Any) -> None:
        from slmops.serve.request import Began, Ended, Piece

        asked = answer.request
        self.prompts.append(self.model.artifact.prompt(asked.messages, asked.tools, asked.think))
        for event in (Began(10), *map(Piece, self.pieces), Ended("stop", len(self.pieces))):
            answer.take(event)


def talked(models: Words, use: Any) -> Any:
    """What `use` makes of a client of these models."""
    import httpx
    import ollama
    from starlette.applications import Starlette

    from slmops.serve.access import CALLER
    from slmops.serve.desk import Desk
    from slmops.serve.logs import TRAIL
    from slmops.serve.request import Caller, Trail
    from slmops.serve.wire import ollama as wire
    from slmops.serve.wire._faults import HANDLERS

    async def all_of() -> Any:
        app = Starlette(routes=wire.routes(Desk(models)), exception_handlers=HANDLERS)  # type: ignore[arg-type]

        async def let_in(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, CALLER: Caller(), TRAIL: Trail()}, receive, send)

        return await use(ollama.AsyncClient("http://words", transport=httpx.ASGITransport(let_in)))

    return asyncio.run(all_of())


CALL = '<tool_call>\n{"name": "set_light", "arguments": {"room": "kitchen", "level": 30}}\n</tool_call>'
PIECES = ("Of course. ", *CALL[:20], CALL[20:60], CALL[60:])


def test_a_call_is_told_whole_with_its_arguments_as_an_object() -> None:
    models = Words(*PIECES)
    whole = talked(models, lambda client: client.chat("words", ASKED, tools=[set_light]))
    (call,) = whole.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("set_light", {"room": "kitchen", "level": 30})
    assert whole.message.content == "Of course." and whole.done_reason == "stop"
    assert '"set_light"' in models.prompts[0] and "in percent" in models.prompts[0]


def test_streamed_it_is_one_line() -> None:
    async def use(client: Any) -> list[Any]:
        return [part async for part in await client.chat("words", ASKED, tools=[set_light], stream=True)]

    parts = talked(Words(*PIECES, "\n", CALL.replace("kitchen", "hall")), use)
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function.arguments["room"] for call in calls] == ["kitchen", "hall"]
    assert all(part.done is False for part in parts[:-1]) and parts[-1].done and not parts[-1].message.tool_calls


def test_what_was_called_and_answered_is_heard() -> None:
    models = Words("Done.")
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "set_light", "arguments": {"room": "hall"}}}]}
    said = [*ASKED, called, {"role": "tool", "content": "hall: 30", "tool_name": "set_light"}]
    assert talked(models, lambda client: client.chat("words", said, tools=[set_light])).message.content == "Done."
    (prompt,) = models.prompts
    assert prompt.index('{"name": "set_light", "arguments": {"room": "hall"}}') < prompt.index("hall: 30")


def test_what_makes_no_sense_is_refused() -> None:
    import ollama

    for messages in (
        [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
        [{"role": "user", "content": "x", "tool_name": "f"}],
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            talked(Words("x"), lambda client, said=messages: client.chat("words", said))
        assert caught.value.status_code == 400
    # Arguments that broke off are not passed on as if they were whole.
    cut = talked(Words(CALL[: CALL.index("30")]), lambda client: client.chat("words", ASKED, tools=[set_light]))
    assert cut.message.tool_calls[0].function.arguments == {}
    json.dumps(cut.model_dump())
