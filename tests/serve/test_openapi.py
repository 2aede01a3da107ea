"""The server's own description: made of its routes and bodies, and held against the server by schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from needs import needs

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
    assert {"POST /v1/chat/completions", "POST /v1/messages", "DELETE /v1/responses/{id}", "GET /health/live"} <= told
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    chat = found["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert chat["additionalProperties"] is False and set(chat["required"]) == {"model", "messages"}
    assert chat["properties"]["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 8}


def test_schemathesis_finds_no_fault(server: str, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    script = Path(sys.executable).with_name("schemathesis")
    asked = ["run", f"{server}/openapi.json", "--max-examples", "12", "--phases", "fuzzing", "--seed", "7", "--no-color"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)}
    done = subprocess.run([script, *asked], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases and cases[1] == cases[2] and int(cases[1]) > 80, done.stdout[-2000:]
