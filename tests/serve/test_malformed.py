"""Some hundreds of requests that no client sends, to the real server; bench/malformed.py sends 100,000."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import malformed
from needs import needs
from serve import guarded
from serve.serving import ANSWER, ASKED, serving

pytestmark = [pytest.mark.slow, needs("starlette", "uvicorn", "xllamacpp", "openai")]


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    folder = tmp_path_factory.mktemp("malformed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMOPS_HOME", str(folder / "home"))  # an admin's requests may well remove something
        file = guarded.keys_file(folder)
        with serving(f"home={made / 'gguf'}", "--keys", file, "--context", "128") as (url, process):
            yield url, process


def routes() -> list[tuple[str, str]]:
    """The application's own."""
    return [(method, route.path) for route in guarded.built(None).routes for method in sorted(route.methods)]


@pytest.mark.parametrize("role", ["admin", "user", None])
def test_nothing_that_is_sent_breaks_it(server: tuple[str, subprocess.Popen[str]], role: str | None) -> None:
    import openai

    url, process = server
    key = guarded.KEYS[role] if role else None
    maker = malformed.Maker(len(role or ""), routes(), key, "home")
    report = asyncio.run(malformed.attack(int(url.rsplit(":", 1)[1]), (maker.request() for _ in range(400))))
    assert not report.faults, report.faults[:3]
    assert report.sent == 400 and report.statuses[400] + report.statuses[401] > 20, report.statuses
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=guarded.KEYS["user"], max_retries=0)
    answer = client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[call-overload]
    assert json.loads(answer.choices[0].message.content) == ANSWER
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        asked = urllib.request.Request(f"{url}/slmops/models", headers={"X-Api-Key": guarded.KEYS["admin"]})
        (state,) = json.loads(urllib.request.urlopen(asked, timeout=60).read())
        if not state["waiting"] and not state.get("running"):
            break
        time.sleep(0.1)
    assert not state["waiting"] and not state.get("running")
    assert process.poll() is None and psutil.Process(process.pid).memory_info().rss < 1 << 30
