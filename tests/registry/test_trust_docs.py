"""docs/trust.md does what it says: its policy is one, and its walk runs on the sample."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from needs import needs
from slmops.cli import parse
from slmops.registry import policy

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
WALK = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]


def test_its_policy_is_one_and_every_key_is_told_of(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    (tmp_path / "policy.yaml").write_text(example)
    found = policy.read(tmp_path / "policy.yaml")
    found.admit("hf:Qwen/Qwen3-0.6B")
    assert found.most_bytes == 40 * 10**9 and found.approval.gates == ("quality", "latency spread")
    for key in policy.schema()["properties"]:
        assert f"| `{key}` |" in TEXT


@pytest.mark.parametrize("command", WALK)
def test_its_commands_parse(command: str) -> None:
    words = shlex.split(command)
    assert words.pop(0) == "slmops"
    parse(words)


@pytest.mark.slow
@needs("model_signing", "xllamacpp")
def test_its_walk_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples", target_is_directory=True)
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    for command in WALK:
        words = [sys.executable, "-m", "slmops", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    for name in ("home.sig", "home.cdx.json", "card.md", "home.tar"):
        assert (tmp_path / name).stat().st_size > 100
    for target in re.findall(r"\]\((?!https)([^)]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
