"""Hub names, against a Hub in a thread: what is asked, what is kept, what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import checkpoint, hollow, safetensors, tensors
from fakehub import COMMIT, TOKEN, Hub, serve
from slmops.core import plugins
from slmops.formats import _hub

LOAD = """
import json, sys
from slmops.source import load
from slmops.core.errors import SlmopsError
try:
    model = load(sys.argv[1], *sys.argv[2:])
    norm = model.tensors["norm"].rows(0, 4).astype("f4").tolist()
    print(json.dumps({"name": model.name, "parameters": model.parameters, "norm": norm, "source": dict(model.source)}))
except SlmopsError as error:
    print(json.dumps({"fault": str(error), "cure": error.cure, "code": error.exit_code}))
"""
OUTLINE = """
import json, sys
from slmops.source import outline
model = outline(sys.argv[1])
print(json.dumps({"name": model.name, "parameters": model.parameters}))
"""
INSPECT = """
import json, sys
from slmops.cli import inspect
from slmops.core.errors import SlmopsError
try:
    print(json.dumps(inspect.facts(sys.argv[1])))
except SlmopsError as error:
    print(json.dumps({"fault": str(error), "cure": error.cure, "code": error.exit_code}))
"""


def config(family: str = "qwen3") -> dict[str, Any]:
    toy: dict[str, Any] = plugins.load("architectures", family).TOY
    return toy


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = checkpoint(tmp_path / "source" / "tiny", config())
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (folder / "consolidated.safetensors").write_bytes(b"another copy")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    sharded = checkpoint(tmp_path / "source" / "sharded", config("llama"), shards=3)
    pickled = checkpoint(tmp_path / "source" / "pickled", config())
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    quantized = checkpoint(tmp_path / "source" / "quantized", config())
    text = json.dumps({**config(), "quantization_config": {"quant_method": "hqq", "bits": 4, "group_size": 128}})
    (quantized / "config.json").write_text(text)
    foreign = checkpoint(tmp_path / "source" / "foreign", config())
    (foreign / "config.json").write_text(json.dumps({**config(), "model_type": "t5"}))
    repos = {f"org/{path.name}": path for path in (folder, sharded, pickled, quantized, foreign)}
    with serve(repos) as hub:
        yield hub


def ask(script: str, hub: Hub | None, home: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run in a process of its own: huggingface_hub reads its environment when it is imported."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    own |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1"}
    own |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=own | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_load_fetches_what_it_needs_and_no_more(hub: Hub, tmp_path: Path) -> None:
    found = ask(LOAD, hub, tmp_path / "home", "org/tiny")
    assert found["name"] == "tiny" and found["source"]["hub"] == "org/tiny" and found["source"]["revision"] == COMMIT
    fetched = {path.rpartition("/")[2] for method, path, _, _ in hub.asked if method == "GET" and "/resolve/" in path}
    assert "model.safetensors" in fetched and "config.json" in fetched
    assert not fetched & {"pytorch_model.bin", "consolidated.safetensors"}
    assert not any("onnx" in path for _, path, _, _ in hub.asked if "/resolve/" in path)
    again = ask(LOAD, hub, tmp_path / "home", "org/tiny")
    assert again == found and hub.sent("model.safetensors") == (hub.repos["org/tiny"] / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_load_all_shards_at_a_revision(hub: Hub, tmp_path: Path) -> None:
    named = ask(LOAD, hub, tmp_path / "home", "org/sharded@v1")
    assert named["parameters"] > 0 and named["source"]["hub"] == "org/sharded@v1"
    assert ask(LOAD, hub, tmp_path / "home", "org/sharded", "v1")["norm"] == named["norm"]


@pytest.mark.slow
def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    # huggingface_hub writes in pieces of 10 MiB: what a cut leaves is whole pieces.
    hollow(hub.repos["org/tiny"], {**config(), "vocab_size": 90_000})
    size, piece = (hub.repos["org/tiny"] / "model.safetensors").stat().st_size, 10 << 20
    hub.cuts["model.safetensors"] = piece * 3 // 2
    assert ask(LOAD, hub, tmp_path / "home", "org/tiny")["parameters"] > 0
    ranges = [asked for method, path, asked, _ in hub.asked if method == "GET" and path.endswith("/model.safetensors")]
    assert len(ranges) == 2 and ranges[0] == "" and ranges[1].startswith("bytes=") and ranges[1] != "bytes=0-"
    assert hub.sent("/model.safetensors") < size + piece


@pytest.mark.slow
def test_cache_answers_without_a_network(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    online = ask(LOAD, hub, home, "org/tiny")
    asked = len(hub.asked)
    assert ask(LOAD, hub, home, "org/tiny", HF_HUB_OFFLINE="1") == online
    assert len(hub.asked) == asked
    assert ask(LOAD, None, home, "org/tiny") == online
    missing = ask(LOAD, None, home, "org/sharded", HF_HUB_OFFLINE="1")
    assert missing["code"] == 3 and "HF_HUB_OFFLINE" in missing["fault"]
    unreachable = ask(LOAD, None, home, "org/sharded")
    assert unreachable["code"] == 16 and "cannot be reached" in unreachable["fault"] and "connect" in unreachable["cure"]


@pytest.mark.slow
def test_gated(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("org/tiny")
    found = ask(LOAD, hub, tmp_path / "home", "org/tiny")
    assert found["code"] == 3 and "gated" in found["fault"] and "hf auth login" in found["cure"]
    assert ask(LOAD, hub, tmp_path / "home", "org/tiny", HF_TOKEN=TOKEN)["name"] == "tiny"


@pytest.mark.slow
def test_private(hub: Hub, tmp_path: Path) -> None:
    hub.private.add("org/tiny")
    found = ask(LOAD, hub, tmp_path / "home", "org/tiny")
    assert found["code"] == 3 and "org/tiny" in found["fault"] and "hf auth login" in found["cure"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "code", "fault", "cure"),
    [
        ("org/nothing", 3, "org/nothing", "check the name"),
        ("org/tiny@v9", 3, "v9", "branch"),
        ("org/pickled", 6, "pickle", "safetensors"),
        ("org/quantized", 6, "hqq", "gptq, awq"),
        ("org/foreign", 5, "t5", "llama"),
        ("just-a-word", 3, "no file or folder", "Qwen"),
        ("a/b/c", 3, "no file or folder", "path"),
        ("~nobody-here/model", 3, "no file or folder", "path"),
        ("x" * 5000, 3, "no file or folder", "path"),
    ],
)
def test_what_is_said(source: str, code: int, fault: str, cure: str, hub: Hub, tmp_path: Path) -> None:
    found = ask(LOAD, hub, tmp_path / "home", source)
    assert found["code"] == code and fault in found["fault"] and cure in found["cure"]
    assert hub.sent(".safetensors") == 0 and hub.sent(".bin") == 0


@pytest.mark.slow
def test_a_plan_fetches_no_weight(hub: Hub, tmp_path: Path) -> None:
    folder = hub.repos["org/tiny"]
    big = {**config(), "vocab_size": 20_000}
    (folder / "config.json").write_text(json.dumps(big))
    safetensors(folder / "model.safetensors", tensors(big))
    found = ask(OUTLINE, hub, tmp_path / "home", "org/tiny")
    assert found["parameters"] > 20_000 and found["name"] == "tiny"
    assert hub.sent(".safetensors") <= 100_001 < (folder / "model.safetensors").stat().st_size
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["org/tiny", "org/sharded", "org/quantized"])
def test_inspect_fetches_headers_only(name: str, hub: Hub, tmp_path: Path) -> None:
    # A body larger than the first range request that huggingface_hub makes.
    folder = hub.repos[name]
    if name == "org/tiny":
        big = {**config(), "vocab_size": 20_000}
        (folder / "config.json").write_text(json.dumps(big))
        safetensors(folder / "model.safetensors", tensors(big))
    local = ask(INSPECT, hub, tmp_path / "other", str(folder))
    found = ask(INSPECT, hub, tmp_path / "home", name)
    assert "fault" not in found and found["parameters"] == local["parameters"] and found["bytes"] == local["bytes"]
    assert found["memory"] == local["memory"] and found["source"]["hub"] == name
    ranges = [asked for _, path, asked, sent in hub.asked if path.endswith(".safetensors") and sent]
    assert ranges and all(asked.startswith("bytes=") for asked in ranges)
    assert all(sent <= 100_001 for _, path, _, sent in hub.asked if path.endswith(".safetensors"))
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", ("Qwen/Qwen3-0.6B", None)),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3")),
        ("org/name@", None),
        ("name", None),
        ("../name", None),
        ("org/..", None),
        ("/org/name", None),
        ("org/na me", None),
        ("https://huggingface.co/org/name", None),
    ],
)
def test_names(text: str, expected: tuple[str, str | None] | None) -> None:
    name = _hub.parse(text)
    assert (name and (name.repo, name.revision)) == expected
