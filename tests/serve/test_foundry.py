"""Foundry Local's routes, in the forms that its own sources have (service/models_handlers.cc, handler_utils.h)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, KEY, serving

pytestmark = [pytest.mark.slow, needs("openai", "starlette", "uvicorn", "xllamacpp")]


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[str]:
    with serving(f"home={made / 'gguf'}") as (url, _):
        yield url


def said(url: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, method=method, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(("models", "listed"), [("models", "models/loaded"), ("openai", "openai/loadedmodels")])
def test_models_come_and_go(server: str, models: str, listed: str) -> None:
    import openai

    assert said(f"{server}/{models}/load/home")[1]["status"] in ("loaded", "already_loaded")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0)
    whole = client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type]
    assert json.loads(whole.choices[0].message.content or "") == ANSWER
    assert said(f"{server}/{listed}") == (200, ["home"])
    assert said(f"{server}/{models}/load/home", "POST") == (200, {"status": "already_loaded"})
    assert said(f"{server}/{models}/unload/home") == (200, {"status": "unloaded"})
    assert said(f"{server}/{listed}") == (200, [])
    assert said(f"{server}/{models}/unload/home", "POST") == (200, {"status": "not_loaded"})
    # Inference loads what is not loaded, where Foundry answers 400.
    client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[arg-type]


def test_facts(server: str) -> None:
    code, status = said(f"{server}/status")
    assert code == 200 and status["endpoints"] == [server] and isinstance(status["pid"], int) and "modelCachePath" in status
    assert set(said(f"{server}/v1/models/home")[1]) >= {"id", "object", "created", "owned_by"}
    for path in ("models/load/none", "models/unload/none"):
        code, body = said(f"{server}/{path}")
        assert code == 404 and body["error"]["type"] == "invalid_request_error" and body["error"]["param"] is None


def test_other_sites_and_users_change_nothing(server: str, made: Path, tmp_path: Path) -> None:
    for headers in ({"sec_fetch_site": "cross-site"}, {"origin": "https://evil.example"}, {"sec_fetch_site": "same-site"}):
        for method in ("GET", "POST"):
            assert said(f"{server}/models/unload/home", method, **headers)[0] == 403
    assert said(f"{server}/models/load/home", sec_fetch_site="none", origin=server)[0] == 200
    from slmops.serve import keys
    from slmops.serve.request import Caller

    keys.write(tmp_path / "keys", {"ann": keys.Key(Caller("ann", "user"), keys.mark(KEY))})
    with serving(f"home={made / 'gguf'}", "--keys", tmp_path / "keys") as (url, _):
        assert said(f"{url}/models/load/home")[0] == 401
        assert said(f"{url}/models/load/home", authorization=f"Bearer {KEY}")[0] == 403
        assert said(f"{url}/models/loaded", authorization=f"Bearer {KEY}")[0] == 403
