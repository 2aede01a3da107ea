"""The documentation is executed: every command in README parses, and the ones on the sample are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from searched import CALM
from slmops.cli import parse
from slmops.core import plugins
from slmops.core.errors import GateFailed

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SECONDS = 300


def commands(path: Path) -> list[str]:
    """What a page's sh blocks have one type."""
    return [
        line.split("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
        for line in block.splitlines()
        if line.startswith("slmops ")
    ]


COMMANDS = commands(README)
PIPELINES = commands(ROOT / "docs" / "pipelines.md")
SERVER = [command for page in ("access", "audit") for command in commands(ROOT / "docs" / f"{page}.md")]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("command", [*COMMANDS, *PIPELINES, *SERVER])
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    parse(words)


@pytest.mark.slow
def test_the_walk_on_the_sample_runs(tmp_path: Path) -> None:
    """In order, in an empty folder that holds the sample, as a reader would type them."""
    walk = [command for command in COMMANDS if "samples/home" in command or " out/" in command]
    assert len(walk) >= 4
    typed(walk, tmp_path)


@pytest.mark.slow
def test_the_pipelines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands as above; then the page's own pipeline, and what it says of a broken one."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    typed(PIPELINES, tmp_path)
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n)+", page, re.M)]
    (own,) = [block for block in blocks if block.lstrip().startswith("pipeline: tools")]
    (tmp_path / "tools.yaml").write_text(own)
    typed(["slmops pipeline run tools.yaml", "slmops verify tools:staging"], tmp_path)
    broken = "pipeline: broken\nsteps:\n  - name: source\n    acquire: {model: a/b}\n  - name: a\n"
    broken += '    convert: {quantise: q4, model: "${steps.source.model}", to: [gguf]}\n  - name: b\n    finetune: {}\n'
    (tmp_path / "broken.yaml").write_text(broken)
    words = [sys.executable, "-m", "slmops", "pipeline", "check", "broken.yaml"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS).stdout
    (shown,) = [block for block in blocks if "$ slmops pipeline check broken.yaml" in block]
    assert said.strip() in shown


def typed(walk: list[str], folder: Path) -> None:
    """Run commands in a folder that holds the sample."""
    if not (folder / "samples").exists():
        (folder / "samples").symlink_to(ROOT / "samples", target_is_directory=True)
    for command in walk:
        words = [sys.executable, "-m", "slmops", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS)
        if done.returncode == GateFailed.exit_code and words[3] == "optimize":  # the machine is busy, which the gate is for
            done = subprocess.run(
                [*words, *CALM], cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS
            )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if command.startswith("slmops run "):
            assert '"set_light"' in done.stdout or '"tool"' in done.stdout


def test_every_verb_and_error_code_is_documented() -> None:
    text = README.read_text(encoding="utf-8")
    for verb in plugins.names("cli"):
        assert f"`slmops {verb}" in text, verb
    for scheme in plugins.names("quantize"):
        assert f"`{scheme}`" in text, scheme


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
