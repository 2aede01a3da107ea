"""What people type for Ollama and Foundry Local, as their documentation has it (docs/cli.mdx; Microsoft Learn)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from slmops import cli
from slmops.cli import compat, parse
from slmops.compat import VERDICTS, foundry, ollama
from slmops.core.errors import SlmopsError, Unsupported, UsageError

OLLAMA = [
    ("run gemma3", "chat gemma3"),
    ('run gemma3 "why is the sky blue"', 'run gemma3 "why is the sky blue"'),
    ("run hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M hello there",
     'run bartowski/Llama-3.2-1B-Instruct-GGUF --variant Q4_K_M "hello there"'),
    ("create mymodel -f ./Modelfile", "models create mymodel --modelfile ./Modelfile --force"),
    ("create --quantize q4_K_M mymodel", "models create mymodel --modelfile Modelfile --quantize q4_k_m --force"),
    ("list", "models ls"), ("ls", "models ls"), ("ps", "ps"), ("serve", "serve --port 11434"),
    ("pull huggingface.co/Qwen/Qwen3-0.6B", "models pull Qwen/Qwen3-0.6B"),
    ("rm gemma3 other", "models rm gemma3 other"), ("show gemma3", "models show gemma3"),
    ("cp llama3 my-model", "models tag llama3 my-model:latest --force"),
    ("cp llama3 localhost:5000/edge/home", "models tag llama3 localhost/edge/home:latest --force"),
    ("push registry.example.com/edge/home:q4", "models push registry.example.com/edge/home:q4 "
     "oci:registry.example.com/edge/home:q4"),
    ("push localhost:5000/edge/home --insecure", "models push localhost/edge/home:latest "
     "oci:localhost:5000/edge/home:latest --plain-http"),
]  # fmt: skip
FOUNDRY = [
    ("model run phi-3.5-mini", "chat phi-3.5-mini"),
    ('model run org/phi --prompt "hello there" --device CPU', 'run org/phi "hello there" --device cpu'),
    ("model list", "models search --source foundry"),
    ("model list --filter alias=phi*", "models search phi --source foundry"),
    ("model download Qwen/Qwen3-0.6B", "models pull Qwen/Qwen3-0.6B"),
    ("model info home", "models show home"),
    ("cache ls", "models ls"), ("cache list", "models ls"), ("cache remove home:q4", "models rm home:q4"),
    ("service start", "serve"), ("service status", "ps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "theirs", "ours"), [*((ollama, *one) for one in OLLAMA), *((foundry, *one) for one in FOUNDRY)]
)
def test_their_lines(tool: ModuleType, theirs: str, ours: str) -> None:
    native = tool.translate(shlex.split(theirs))
    assert list(native.words) == shlex.split(ours)
    parse(list(native.words))


@pytest.mark.parametrize(
    ("tool", "line", "error", "said"),
    [
        (ollama, "run gemma3 --format json hello", Unsupported, "--format"),
        (ollama, "signin", Unsupported, "credentials"),
        (ollama, "push home", UsageError, "HOST/REPOSITORY"),
        (ollama, "dance", UsageError, "one of: run"),
        (ollama, "run", UsageError, "model"),
        (ollama, "list --colour", UsageError, "--colour"),
        (ollama, "cp one", UsageError, "MODEL"),
        (foundry, "cache cd /data/models", Unsupported, "export SLMOPS_HOME=/data/models"),
        (foundry, "cache location", Unsupported, "SLMOPS_HOME"),
        (foundry, "service stop", Unsupported, "Ctrl-C"),
        (foundry, "model list --filter device=GPU", Unsupported, "device"),
        (foundry, "model", UsageError, "model run"),
        (foundry, "model run x --colour", UsageError, "--colour"),
    ],
)
def test_what_is_not_done_is_refused_with_the_cure(tool: ModuleType, line: str, error: type[SlmopsError], said: str) -> None:
    with pytest.raises(error) as caught:
        tool.translate(shlex.split(line))
    assert said in f"{caught.value} {caught.value.cure}"


@pytest.mark.parametrize("tool", ["ollama", "foundry"])
def test_the_table_has_every_command(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compat", tool]) == 0
    shown = capsys.readouterr().out
    module = {"ollama": ollama, "foundry": foundry}[tool]
    assert shown.strip() == compat.table(tool) and all(verdict in VERDICTS for verdict, _ in module.TABLE.values())
    for command in module.COMMANDS:
        assert (command if isinstance(command, str) else command[1]) in shown
    assert cli.main(["compat", tool, *shlex.split("list" if tool == "ollama" else "cache ls"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["native"] == ["slmops", "models", "ls"]


DOC = Path(__file__).resolve().parent.parent.parent / "docs" / "ollama.md"
TYPED = [line.split("  #")[0].strip() for line in DOC.read_text().splitlines() if line.startswith("    slmops ")]


@pytest.mark.parametrize("line", TYPED)
def test_the_lines_of_the_page_parse(line: str) -> None:
    words = shlex.split(line)[1:]
    found = parse(words)
    if words[0] == "compat" and found.words:
        tool = {"ollama": ollama, "foundry": foundry}[found.tool]
        native = tool.translate([word for word in found.words if word != "--dry-run"])  # type: ignore[attr-defined]
        parse(list(native.words))
