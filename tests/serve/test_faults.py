"""What is refused before a route runs, and what no route takes, in the form of the format whose path it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve import guarded

pytestmark = needs("starlette", "openai", "anthropic", "ollama", "httpx")
ASKED = [{"role": "user", "content": "hello"}]


@pytest.mark.slow
def test_official_clients_read_what_the_guard_refuses(tmp_path: Path) -> None:
    import anthropic
    import httpx
    import httpx2
    import ollama
    import openai

    app = guarded.built(guarded.keys_file(tmp_path))
    host = f"http://{guarded.HOST}"

    def web() -> Any:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app))

    async def asked() -> None:
        theirs = openai.AsyncOpenAI(base_url=f"{host}/v1", api_key="wrong", max_retries=0, http_client=web())
        with pytest.raises(openai.AuthenticationError) as refused:
            await theirs.chat.completions.create(model="home", messages=ASKED)  # type: ignore[arg-type]
        assert refused.value.code == "invalid_api_key" and refused.value.type == "invalid_request_error"

        other = anthropic.AsyncAnthropic(base_url=host, api_key="wrong", max_retries=0, http_client=web())
        with pytest.raises(anthropic.AuthenticationError) as denied:
            await other.messages.create(model="home", messages=ASKED, max_tokens=5)  # type: ignore[arg-type]
        body: Any = denied.value.body
        assert body["type"] == "error" and body["error"]["type"] == "authentication_error"
        assert body["request_id"] == denied.value.request_id

        key = {"authorization": "Bearer wrong"}
        client = ollama.AsyncClient(host, transport=httpx.ASGITransport(app), headers=key)
        with pytest.raises(ollama.ResponseError, match="no valid key") as said:
            await client.chat("home", ASKED)
        assert said.value.status_code == 401 and isinstance(said.value.error, str)

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/messages", "anthropic"), ("/v1/messages/none", "anthropic"), ("/v1/chat/completions", "openai"),
        ("/v1/responses/none/none", "openai"), ("/none", "openai"), ("/slmops/models", "openai"), ("/api/chat", "ollama"),
        ("/api/none", "ollama"), ("/models/loaded", "foundry"), ("/openai/load/home", "foundry"),
    ],
)  # fmt: skip
def test_every_refusal_has_the_form_of_its_path(tmp_path: Path, path: str, form: str) -> None:
    app, key = guarded.built(guarded.keys_file(tmp_path)), {"x-api-key": guarded.KEYS["user"]}

    async def all_of() -> list[tuple[int, dict[str, str], bytes]]:
        wrong: list[dict[str, Any]] = [
            {"headers": key, "host": "evil.example"},
            {},  # without a key
            {"headers": {**key, "content-length": "99999999"}},
            {"headers": key, "body": b"[" * 100},
        ]
        return [await guarded.ask(app, "PATCH" if one == wrong[3] else "POST", path, **one) for one in wrong]

    for status, headers, body in asyncio.run(all_of()):
        said = json.loads(body)
        assert 400 <= status < 500 and said["error"], (status, said)
        match form:
            case "ollama":
                assert isinstance(said["error"], str) and set(said) == {"error"}
            case "anthropic":
                assert said["type"] == "error" and set(said["error"]) == {"type", "message"}
                assert said["request_id"] == headers["request-id"] and said["error"]["type"].endswith(("_error", "_large"))
            case _:
                assert set(said["error"]) == {"message", "type", "param", "code"}
                assert (said["error"]["code"] is None) == (form == "foundry")


def test_what_nobody_thought_of_has_a_form_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from slmops.serve.models import Models

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Models, "at_hand", broken)
    app = guarded.built(None)

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False)) as client:
            return await client.post(f"http://{guarded.HOST}/api/chat", json={"model": "home", "messages": ASKED})

    answer = asyncio.run(asked())
    assert answer.status_code == 500 and answer.json() == {"error": "the server failed"}
