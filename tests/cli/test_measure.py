"""slmops measure, as it is typed, on real engines."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slmops import cli
from slmops import compile as compiler
from slmops.core.errors import OutputExists, SourceNotFound, UsageError
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "please set the kitchen light to thirty percent and then turn it off again. " * 40


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy, its q8 and q4 in GGUF, and a text."""
    out = tmp_path_factory.mktemp("made")
    shutil.copytree(toy("qwen3"), out / "source")
    (out / "text.txt").write_text(TEXT + "Grüße – ünïcödé.")
    lines = [{"messages": [{"role": "user", "content": f"say {n}"}], "expected": "never"} for n in range(3)]
    (out / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for scheme in ("q8", "q4"):
        compiler.convert(load(out / "source"), ["gguf"], scheme, out / scheme, verify=False)
    return out


def words(made: Path) -> list[str]:
    against = ["--against", str(made / "source"), "--text", str(made / "text.txt"), "--tasks", str(made / "cases.jsonl")]
    return ["measure", str(made / "q8"), str(made / "q4"), *against, "--runs", "2", "--engine", "llamacpp"]


@pytest.mark.slow
def test_in_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words(made), "--json", "--report", str(made / "report.html")]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    shown = (made / "report.html").read_text()
    for figure in (
        found["measured"][1]["speed"]["decode"],
        found["compared"][0]["loss"]["value"],
        found["measured"][0]["bytes"],
    ):
        assert f'<data value="{figure!r}">' in shown
    assert found["command"].startswith("slmops measure ") and found["command"] in re.sub("</?span>", "", shown)
    assert {one["bits"] for one in found["artifacts"][1]["tensors"]} == {4.5}
    eight, four = found["measured"]
    assert (eight["format"], eight["scheme"], eight["engine"]) == ("gguf", "q8", "llamacpp")
    assert 0 < eight["quality"]["kl"]["value"] < four["quality"]["kl"]["value"]
    assert eight["bytes"] > four["bytes"] and four["peak"] >= four["empty"] > 10_000_000 and four["load"] > 0
    assert four["quality"]["bits_per_byte"]["value"] > 0 and "losses" not in four["quality"]
    assert four["speed"]["decode"] > 0 and four["speed"]["runs"] == 2 and len(four["speed"]["itl"]) == 3
    assert four["speed"]["itl"][0] <= four["speed"]["itl"][2] and four["speed"]["cores"] > 0
    assert four["answers"]["right"] == [False] * 3
    (pair,) = found["compared"]
    loss = pair["loss"]
    assert loss["low"] <= loss["value"] <= loss["high"] and pair["cases"]["cases"] == 3
    raced = pair["speed"]
    assert 0 < raced["low"] <= raced["value"] <= raced["high"] and raced["samples"] == 2


@pytest.mark.slow
def test_for_people(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(made)) == 0
    shown = capsys.readouterr().out
    for wanted in ("llamacpp", "retained", "McNemar", "nats a token", "rounds taken in turn", "0/3 (0%-56%)"):
        assert wanted in shown
    assert all(len(line) < 160 for line in shown.splitlines() if " less " not in line)


def test_what_makes_no_sense(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(made / "q8")
    assert cli.main(["measure", folder, "--against", str(made / "source")]) == UsageError.exit_code
    assert cli.main(["measure", folder, "--runs", "0"]) == UsageError.exit_code
    assert cli.main(["measure", folder, "--tasks", str(made / "nowhere")]) == SourceNotFound.exit_code
    assert cli.main(["measure", str(made / "nowhere")]) == SourceNotFound.exit_code
    assert cli.main(["measure", folder, "--report", str(made / "nowhere" / "out.html")]) == SourceNotFound.exit_code
    assert cli.main(["measure", folder, "--report", str(made / "text.txt")]) == OutputExists.exit_code
    assert capsys.readouterr().err.count("slmops: ") == 6
