"""slmops models, and names in place of folders."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import SAMPLE
from filed import artifact
from slmops.cli import main, models, parse
from slmops.core import plugins

Toy = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass(frozen=True)
class Said:
    stdout: str
    stderr: str


def slmops(*words: object, code: int = 0) -> Said:
    """In this process; test_cli.py starts the program itself."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            ended: object = main([*map(str, words)])
        except SystemExit as end:
            ended = end.code or 0
    for one in streams:
        one.seek(0)
    done = Said(*(one.read() for one in streams))
    assert ended == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def said(*words: object) -> object:
    return json.loads(slmops("models", *words, "--json").stdout)


@pytest.mark.parametrize("name", plugins.names(models.ROOM))
def test_every_part_explains_itself_with_an_example(name: str) -> None:
    example = plugins.load(models.ROOM, name).EXAMPLE
    assert example in slmops("models", name, "--help").stdout
    words = shlex.split(example)
    parse(words[1:])


def test_the_life_of_an_artifact(tmp_path: Path) -> None:
    made = artifact(tmp_path / "made")
    digest = slmops("models", "add", made).stdout.split()[1]
    assert said("ls")[0]["tags"] == ["toy:gguf-q4"]  # type: ignore[index]
    assert said("tag", "toy:gguf-q4", "toy:stable") == {"digest": digest, "name": "toy:stable"}
    shown = slmops("models", "show", "toy:stable").stdout
    assert digest in shown and "model.gguf" in shown and "source: org/Toy@main" in shown
    assert said("show", digest[:20])["files"][0]["path"] == "README.md"  # type: ignore[call-overload, index]
    assert "toy:gguf-q4" in slmops("models", "ls").stdout and "every byte" in slmops("models", "verify", "toy:stable").stdout
    assert slmops("models", "lineage", "--dot").stdout.startswith("digraph")
    slmops("models", "export", "toy:stable", "-o", tmp_path / "toy.tar")
    assert "2 names" not in slmops("models", "rm", "toy:stable", "toy:gguf-q4").stdout
    assert said("gc")["artifacts"] == []  # type: ignore[call-overload, index]
    slmops("models", "lease", digest, "--for", "7d")
    assert said("gc", "--grace", "0s")["leased"] == [digest]  # type: ignore[call-overload, index]
    slmops("models", "import", tmp_path / "toy.tar")
    assert said("reindex") == {"artifacts": 1} and said("fsck")["sound"]  # type: ignore[call-overload, index]


def test_faults_have_their_codes(tmp_path: Path, home: Path) -> None:
    assert "nothing yet" in slmops("models", "ls").stdout
    slmops("models", code=2)
    slmops("models", "show", "no/such:thing", code=3)
    slmops("models", "add", tmp_path, code=3)
    slmops("models", "add", artifact(tmp_path / "a"), "--name", "../x", code=2)
    slmops("models", "add", artifact(tmp_path / "a"), "--name", "x")
    taken = slmops("models", "add", artifact(tmp_path / "b", b"y"), "--name", "x", code=12)
    assert "--force" in taken.stderr
    blob = next(path for path in (home / "blobs" / "sha256").iterdir() if path.stat().st_size == 70_000)
    blob.chmod(0o644)
    blob.write_bytes(b"y" * 70_000)
    assert "damaged" in slmops("models", "verify", "x", code=4).stderr
    assert "blob sha256:" in slmops("models", "fsck", code=4).stdout
    assert "set aside" in slmops("models", "fsck", "--repair", code=4).stdout
    slmops("models", "add", artifact(tmp_path / "c"), "--name", "x")
    assert "every byte" in slmops("models", "verify", "x").stdout
    assert "faults" not in slmops("models", "fsck").stderr


def test_what_manifests_say_steers_no_terminal(tmp_path: Path) -> None:
    slmops("models", "add", artifact(tmp_path / "a", scheme="\x1b[31mq4", name="x\x07"), "--name", "x")
    for words in (["ls"], ["show", "x"], ["lineage"], ["lineage", "--dot"]):
        assert not {"\x1b", "\x07"} & set(slmops("models", *words).stdout)


@pytest.mark.slow
def test_a_name_stands_for_a_folder(tmp_path: Path) -> None:
    slmops("convert", SAMPLE, "--to", "gguf", "--name", "home:q4")
    again = json.loads(slmops("convert", SAMPLE, "--to", "gguf", "--name", "home:q4", "--json").stdout)
    assert not again[0]["fresh"] and again[0]["name"] == "home:q4" and Path(again[0]["folder"]).is_dir()
    slmops("convert", SAMPLE, "--to", "gguf", "--quantize", "q8", "--name", "home:q4", code=12)
    assert "set_light" in slmops("run", "home:q4", "turn the kitchen light to 30 percent").stdout
    assert json.loads(slmops("inspect", "home:q4", "--json").stdout)["family"] == "qwen3"
    assert "read back" in slmops("verify", "home").stdout
    slmops("run", "home:q5", "hello", code=3)
    slmops("convert", "home:q4", "--to", "onnx", "--name", "onnx", "-o", tmp_path / "out", "--no-verify")
    assert (tmp_path / "out" / "slmops.json").is_file()
    assert "from source: home:q4" in slmops("models", "lineage", "onnx").stdout
    # A path wins over a name.
    (tmp_path / "home:q4").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "slmops", "verify", "home:q4"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3 and "not an artifact" in done.stderr
