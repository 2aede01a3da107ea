"""slmops measure, as it is typed, on real engines."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from needs import needs
from slmops import cli
from slmops import compile as compiler
from slmops.core.errors import GateFailed, OutputExists, SourceNotFound, UsageError
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
    assert four["speed"]["decode"] > 0 and four["speed"]["runs"] == 2 and len(four["speed"]["first_tokens"]) == 2
    assert four["speed"]["itl"]["p50"]["value"] <= four["speed"]["itl"]["p99"]["value"] and four["speed"]["cores"] > 0
    assert four["kv"] == "auto" and four["effective"]["activations"] == "blocks of 8 bits"
    assert four["altered"] == "" and four["stress"] is None and four["verdicts"] == []
    assert four["answers"]["right"] == [False] * 3 and four["answers"]["share"]["value"] == 0
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
    assert "weights Q4_0, activations blocks of 8 bits, kv f16" in shown
    assert all(len(line) < 160 for line in shown.splitlines() if " less " not in line)


@pytest.mark.slow
def test_a_kv_cache_of_eight_bits_costs_what_is_seen(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same codes in the same engine: quality is taken with the KV cache that is asked for."""
    found = {}
    for kv in ("f16", "q8"):
        start = ["measure", str(made / "q8"), "--against", str(made / "source"), "--text", str(made / "text.txt")]
        assert cli.main([*start, "--runs", "1", "--engine", "llamacpp", "--kv", kv, "--json"]) == 0
        (found[kv],) = json.loads(capsys.readouterr().out)["measured"]
    assert found["q8"]["kv"] == "q8" and found["q8"]["effective"]["kv"] == "q8_0"
    assert found["q8"]["quality"]["kl"]["value"] > found["f16"]["quality"]["kl"]["value"] > 0


def test_what_makes_no_sense(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(made / "q8")
    assert cli.main(["measure", folder, "--against", str(made / "source")]) == UsageError.exit_code
    assert cli.main(["measure", folder, "--runs", "0"]) == UsageError.exit_code
    assert cli.main(["measure", folder, "--tasks", str(made / "nowhere")]) == SourceNotFound.exit_code
    assert cli.main(["measure", str(made / "nowhere")]) == SourceNotFound.exit_code
    assert cli.main(["measure", folder, "--report", str(made / "nowhere" / "out.html")]) == SourceNotFound.exit_code
    assert cli.main(["measure", folder, "--report", str(made / "text.txt")]) == OutputExists.exit_code
    assert capsys.readouterr().err.count("slmops: ") == 6


@pytest.mark.slow
def test_gates_decide_the_exit_code(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["measure", str(made / "q4"), "--runs", "2", "--engine", "llamacpp"]
    assert cli.main([*start, "--gate", "peak<=2GB", "--gate", "stability.identical>=60", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["measured"]
    assert [verdict["passed"] for verdict in one["verdicts"]] == [True, True]
    assert one["stress"]["faults"] == [] and one["stability"]["growth"]["low"] <= one["stability"]["growth"]["high"]
    assert cli.main([*start, "--gate", "default", "--gate", "peak<=1MB"]) == GateFailed.exit_code
    shown, complained = capsys.readouterr()
    assert "x peak<=1MB: " in shown and "+ stress: 0 faults" in shown and "? quality: no text was given" in shown
    assert "quality; " in complained and "peak<=1MB" in complained


@pytest.mark.slow
@needs("openvino_genai")
def test_concurrency_is_measured_where_an_engine_has_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler.convert(load(made / "source"), ["openvino"], "q8", made / "ir", verify=False)
    start = ["measure", str(made / "ir"), "--runs", "1", "--concurrency", "1,3"]
    assert cli.main([*start, "--engine", "openvino"]) == UsageError.exit_code
    assert "openvino_paged" in capsys.readouterr().err
    assert (
        cli.main([*start, "--engine", "openvino_paged", "--gate", "concurrency.3.throughput>=1e9"]) == GateFailed.exit_code
    )
    shown = capsys.readouterr().out
    assert "in flight" in shown and "x concurrency.3.throughput>=1e9" in shown


def test_gates_and_levels_that_make_no_sense(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["measure", str(made / "q8")]
    for words, said in (
        (["--gate", "kl.mean<=0.02"], "quality.kl, "),
        (["--gate", "nonsense"], "METRIC OP NUMBER"),
        (["--require", "speed"], "f16, bf16 or f32 as the first"),
        (["--require", "size"], "speed, memory"),
        (["--concurrency", "0"], "1 to 256"),
        (["--concurrency", "two"], "1 to 256"),
    ):
        assert cli.main([*start, *words]) == UsageError.exit_code, words
        assert said in capsys.readouterr().err, words


@pytest.mark.slow
@needs("xllamacpp")
def test_figures_are_filed_with_what_the_registry_has(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an approval stands on."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    assert cli.main(["measure", str(made / "q8"), "--attach"]) == 2
    assert cli.main(["measure", "toy:q8", "--attach"]) == 3
    assert cli.main(["models", "add", str(made / "q8"), "--name", "toy:q8"]) == 0
    asked = ["--runs", "2", "--engine", "llamacpp", "--attach", "--gate", "peak<=1MB"]
    assert cli.main(["measure", "toy:q8", *asked]) == 13
    assert cli.main(["models", "approve", "toy:q8", "--by", "ann"]) == 15
    asked[-1] = "peak<=100GB"
    assert cli.main(["measure", "toy:q8", *asked]) == 0
    capsys.readouterr()
    assert cli.main(["models", "show", "toy:q8", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {one["gate"]: one["passed"] for one in shown["gates"]} == {"peak<=1MB": False, "peak<=100GB": True}
    assert str(tmp_path) not in json.dumps([one for one in shown["attachments"] if one["kind"] == "measurement"])
