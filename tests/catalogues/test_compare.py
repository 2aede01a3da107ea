"""slmops models compare: models of the Hub (in a thread), of the registry and of this disk, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import SAMPLE
from fakehub import Hub, serve
from slmops import compile as compiler
from slmops.registry import Registry
from slmops.registry.references import named
from slmops.source import load

Toy = Callable[..., Path]


@pytest.fixture
def hub(toy: Toy, tmp_path: Path) -> Iterator[Hub]:
    repos = {"org/tiny": toy("qwen3"), "org/llama": toy("llama"), "org/shut": toy("qwen2")}
    with serve(repos) as hub:
        hub.gated.add("org/shut")
        yield hub


def compare(hub: Hub, home: Path, *words: str, code: int = 0) -> Any:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    own |= {"HF_HOME": str(home / "hub"), "HF_ENDPOINT": hub.url, "SLMOPS_HOME": str(home / "home")}
    own |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "slmops", "models", "compare", *words], env=own, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stdout + done.stderr


def test_side_by_side_without_a_weight(hub: Hub, tmp_path: Path) -> None:
    found = compare(hub, tmp_path, "org/tiny", str(SAMPLE), "--target", "raspberry-pi", "--context", "256", "--json")
    tiny, home = found["models"]["org/tiny"], found["models"][str(SAMPLE)]
    assert found["machine"] == "raspberry-pi" and tiny["downloads"] == 0 and "downloads" not in home
    assert (home["family"], home["parameters"], home["licence"], home["context"]) == ("qwen3", 1_968_896, "apache-2.0", 512)
    assert home["sizes"]["q4"] < home["sizes"]["q8"] < home["sizes"]["f16"] and home["choice"]["format"] == "gguf"
    assert home["sizes"]["f16"] < home["memory"]["f16"] and home["against"] == ""
    # Headers alone, by the range request that huggingface_hub reads them with.
    assert {wanted for _, path, wanted, _ in hub.asked if path.endswith(".safetensors") and wanted} == {"bytes=0-100000"}


@pytest.mark.slow
def test_an_artifact_beside_its_source(hub: Hub, tmp_path: Path) -> None:
    (made,) = compiler.convert(load(SAMPLE), ["gguf"], "q4", tmp_path / "made", verify=False)
    with Registry.open(tmp_path / "home") as registry:
        registry.add(made.folder, named("home:q4"))
    size = (made.folder / "model.gguf").stat().st_size
    found = compare(hub, tmp_path, "home:q4", str(SAMPLE), "--context", "256", "--json")["models"]
    assert list(found["home:q4"]["sizes"]) == ["q4_0"] and found["home:q4"]["licence"] == "apache-2.0"
    # Weights are told exactly; the tokenizer and names are not among them.
    assert 0.9 < found["home:q4"]["sizes"]["q4_0"] / size <= 1 and 0.9 < found[str(SAMPLE)]["sizes"]["q4"] / size <= 1
    said = compare(hub, tmp_path, "home:q4", str(SAMPLE), "--context", "256")
    assert "q4_0: size" in said and "predicted" in said


def test_one_that_cannot_be_read_does_not_hide_the_others(hub: Hub, tmp_path: Path) -> None:
    said = compare(hub, tmp_path, "org/tiny", "org/shut", "org/nowhere", "--context", "256", code=3)
    assert "gated" in said and "qwen3" in said and "Traceback" not in said


def test_too_little_memory_is_said(hub: Hub, tmp_path: Path) -> None:
    tight = tmp_path / "tight.toml"
    tight.write_text(
        'description = "tight"\nsystem = "linux"\narch = "x86_64"\ncores = 1\nmemory_gb = 0.05\nusable = 0.5\n'
        'bandwidth_gb_s = 1\nformats = ["gguf"]\n'
    )
    found = compare(hub, tmp_path, "org/tiny", "org/llama", "--target", str(tight), "--context", "128", "--json")["models"]
    assert found["org/llama"]["choice"] is None and "memory" in found["org/llama"]["against"]


@pytest.mark.slow
def test_words_that_make_no_sense(hub: Hub, tmp_path: Path) -> None:
    assert "1 models cannot" in compare(hub, tmp_path, "org/tiny", code=2)
    assert "no target called" in compare(hub, tmp_path, "a/b", "c/d", "--target", "moon", code=2)
    assert "context of 0" in compare(hub, tmp_path, "a/b", "c/d", "--context", "0", code=2)
