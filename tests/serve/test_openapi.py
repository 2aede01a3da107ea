"""The server's own description: made of its routes and bodies, and held against the server by schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import serving

pytestmark = [pytest.mark.slow, needs("schemathesis", "starlette", "uvicorn", "xllamacpp")]

HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 413, 422]
[checks.positive_data_acceptance]
enabled = false  # what fits its schema may still be refused: two things that exclude each other, a prompt too long
"""


def test_every_route_is_described(server: str) -> None:
    with urllib.request.urlopen(f"{server}/openapi.json", timeout=60) as answer:
        found = json.loads(answer.read())
    told = {f"{method.upper()} {path}" for path, one in found["paths"].items() for method in one}
    read = {"create", "pull", "push", "copy", "delete", "chat", "generate", "embed", "embeddings", "show"}
    for path, operations in found["paths"].items():
        assert ("requestBody" in operations.get("post", operations.get("delete", {}))) == (
            (path.startswith("/v1/") and "{" not in path and path != "/v1/models") or path.removeprefix("/api/") in read
        ), path
    assert {"POST /v1/chat/completions", "POST /v1/messages", "DELETE /v1/responses/{id}", "GET /health/live"} <= told
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    chat = found["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert chat["additionalProperties"] is False and set(chat["required"]) == {"model", "messages"}
    assert chat["properties"]["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 8}


@pytest.fixture(scope="module")
def managed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a registry, whose models may be made and removed; nothing is asked of the Hub."""
    from slmops.registry import Registry, references

    home = tmp_path_factory.mktemp("openapi")
    with Registry.open(home) as registry:
        registry.add(made / "gguf", references.named("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMOPS_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        with serving("--context", "256") as (url, _):
            yield url


ANY = "."
THEIRS = "^/(api|models|openai|status)"
"""Ollama's and Foundry's paths."""


@pytest.mark.parametrize(("which", "paths", "least"), [("server", ANY, 200), ("managed", THEIRS, 120)])
def test_schemathesis_finds_no_fault(which: str, paths: str, least: int, tmp_path: Path, request: Any) -> None:
    url = request.getfixturevalue(which)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    script = Path(sys.executable).with_name("schemathesis")
    asked = ["run", f"{url}/openapi.json", "--max-examples", "12", "--phases", "fuzzing", "--seed", "7", "--no-color"]
    asked += ["--request-timeout", "60"]  # in which a model may be loaded
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)}
    command = [script, *asked, "--include-path-regex", paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases and cases[1] == cases[2] and int(cases[1]) > least, done.stdout[-2000:]
