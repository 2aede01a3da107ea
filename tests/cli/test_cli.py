"""The commands as a user types them: outputs, exit codes, errors with their cure."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slmops.core import plugins

Toy = Callable[..., Path]


def slmops(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "slmops", *words], capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    said = slmops("--help").stdout
    for name in plugins.names("cli"):
        assert f"\n    {name} " in said
    script = "import sys; from slmops.cli import parser; parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"numpy", "onnx", "openvino", "torch", "numba", "tokenizers", "huggingface_hub", "jinja2"} & set(loaded)


@pytest.mark.parametrize("verb", plugins.names("cli"))
def test_every_verb_has_help_with_an_example_and_json(verb: str) -> None:
    said = slmops(verb, "--help").stdout
    assert "example:" in said and "--json" in said


@pytest.mark.parametrize("verb", [name for name in plugins.names("cli") if name != "demo"])
def test_examples_are_valid_command_lines(verb: str) -> None:
    """Every example parses; the ones that need no artifact are run by the tests of their verb."""
    from slmops.cli import parse

    words = shlex.split(plugins.load("cli", verb).EXAMPLE)
    assert words[0] == "slmops"
    parse(words[1:])


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["convert", "no/such/folder/here", "--to", "gguf", "-o", "x"], 3, "no/such/folder/here"),
        (["verify", "."], 3, "not an artifact"),
        (["run", ".", "hello"], 3, "config.json"),
        (["inspect", "."], 3, "config.json"),
        (["convert"], 2, "required"),
        (["frobnicate"], 2, "invalid choice"),
        (["convert", ".", "--to", "gguf", "-o", "x", "--unknown-option"], 2, "unrecognized"),
    ],
)
def test_errors_name_the_fault_and_have_their_code(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slmops", *words], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, timeout=120
    )
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_dry_run_writes_nothing(toy: Toy, tmp_path: Path) -> None:
    said = slmops("convert", str(toy("qwen3")), "--to", "all", "--dry-run", "--json", "-o", str(tmp_path / "out")).stdout
    assert set(json.loads(said)["bytes"]) >= {"gguf", "onnx", "openvino", "mlx", "compressed_tensors"}
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_refused(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    done = slmops("convert", str(toy("qwen3")), "--to", "gguf", "--no-verify", "-o", str(tmp_path / "out"), code=12)
    assert "--force" in done.stderr
    assert (tmp_path / "out" / "precious").read_text() == "x"


@pytest.mark.slow
def test_convert_verify_run(toy: Toy, tmp_path: Path) -> None:
    """The walk of the README on a toy: only the text of the answer goes to standard output."""
    out = str(tmp_path / "out")
    made = json.loads(slmops("convert", str(toy("qwen3")), "--to", "gguf", "--quantize", "q8", "-o", out, "--json").stdout)
    assert made[0]["verification"]["engines"] and made[0]["failure"] is None
    assert "identical" in slmops("verify", out).stdout
    facts = json.loads(slmops("run", out, "hello there", "--max-tokens", "8", "--json").stdout)
    assert facts["tokens"] <= 8 and facts["prompt_tokens"] > 2
    plain = slmops("run", out, "hello there", "--max-tokens", "8").stdout
    assert plain == facts["text"] + "\n"
    slmops("run", out, "x " * 2000, code=2)
    slmops("run", out, "hello", "--engine", "mlx", code=2)
    slmops("run", out, "hello", "--temperature", "-1", code=2)
