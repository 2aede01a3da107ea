"""Bodies that make no sense, on every route of Ollama's format: an error of its own form, never a 500."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from needs import needs
from serve.test_ollama_tools import Words

pytestmark = needs("starlette", "httpx")
EXAMPLES = int(os.environ.get("SLMOPS_MALFORMED", "150"))
"""Of each route; more where the environment says so."""
ROUTES = ["chat", "generate", "embed", "embeddings", "show", "pull", "push", "create", "copy", "delete"]
FIELDS = [
    "model", "name", "messages", "prompt", "stream", "options", "format", "keep_alive", "think", "tools", "logprobs",
    "top_logprobs", "truncate", "system", "raw", "suffix", "template", "images", "context", "input", "dimensions",
    "verbose", "source", "destination", "from", "files", "adapters", "license", "parameters", "quantize", "insecure",
    "colour",
]  # fmt: skip
KEYS = [
    "role",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "temperature",
    "num_predict",
    "stop",
    "seed",
    "num_ctx",
    "x",
]
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["words", "user", "json", "10m", "-1", "words:latest", "../x", "sha256:" + "0" * 64, 2**63, 1e308]),
)  # fmt: skip
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=6,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(
        lambda body: json.dumps({"model": "words", **body}).encode()
    ),
    values.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=40),
)


def client(managed: bool) -> Any:
    import httpx
    from starlette.applications import Starlette

    from slmops.serve.access import CALLER
    from slmops.serve.desk import Desk
    from slmops.serve.logs import TRAIL
    from slmops.serve.request import Caller, Embedded, Trail
    from slmops.serve.wire import ollama as wire
    from slmops.serve.wire._faults import HANDLERS

    async def embed(texts: list[str]) -> Embedded:
        return Embedded(tuple((1.0,) for _ in texts), len(texts))

    models = Words("an answer")
    models.model.embed = embed
    models.registry = managed  # type: ignore[misc]
    models.load = models.unload = models.keep = lambda *_: True  # type: ignore[attr-defined]
    app = Starlette(routes=wire.routes(Desk(models)), exception_handlers=HANDLERS)  # type: ignore[arg-type]

    async def let_in(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, CALLER: Caller(role="admin"), TRAIL: Trail()}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(let_in, raise_app_exceptions=False), base_url="http://words")


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_never_a_500(route: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path))
    loop, asked = asyncio.new_event_loop(), client(route in ("create", "copy", "delete"))

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(bodies)
    def tried(body: bytes) -> None:
        method = "DELETE" if route == "delete" else "POST"
        answer = loop.run_until_complete(asked.request(method, f"/api/{route}", content=body))
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert isinstance(answer.json()["error"], str) and len(answer.json()["error"]) < 1000

    try:
        tried()
    finally:
        loop.run_until_complete(asked.aclose())
        loop.close()
