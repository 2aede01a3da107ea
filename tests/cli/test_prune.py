"""slmops prune, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from judges import transformers_logits
from slmops import cli
from slmops import compile as compiler
from slmops.core import receipt
from slmops.core.errors import GateFailed, OutputExists, SourceNotFound, Unsupported, UsageError
from slmops.ops.numpy import Reference
from slmops.pruning import split
from slmops.source import load

Toy = Callable[..., Path]
TEXT = "please set the kitchen light to thirty percent and then turn it off again.\n" * 60


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def test_every_third_piece_is_kept_apart() -> None:
    lines = [f"line {number}\n" for number in range(600)]
    choosing, measuring = split("".join(lines))
    both = choosing.splitlines(keepends=True), measuring.splitlines(keepends=True)
    assert sorted(both[0] + both[1]) == sorted(lines) and not set(both[0]) & set(both[1])
    assert 0.25 < len(measuring) / len("".join(lines)) < 0.4
    assert split("") == ("", "") and split("ab") == ("ab", "")
    one = "word " * 1000
    assert sum(map(len, split(one))) == len(one) and split(one)[1]


@pytest.mark.slow
def test_all_three_at_once(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON; transformers opens the folder, and a GGUF of it is proven in llama.cpp."""
    out = tmp_path / "out"
    words = ["prune", str(sample), "--text", str(sample / "eval" / "calibration.jsonl"), "-o", str(out), "--json"]
    words += ["--layers", "1", "--width", "0.75", "--vocabulary-size", "1300", "--tokens", "512", "--min-quality", "0.1"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (found["layers"], found["intermediate"], found["vocabulary"]) == ([4, 3], [256, 192], [1536, 1344])
    assert found["parameters"][1] < found["parameters"][0] and found["folder"] == str(out)
    assert len(found["dropped"]) == 1 and found["verdict"]["passed"] is True
    assert 0.1 < found["quality"]["retained"]["low"] < found["quality"]["retained"]["high"] < 1
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"], config["vocab_size"]) == (3, 192, 1344)
    assert len(config["layer_types"]) == 3 and config["eos_token_id"] == 1343
    model = load(out)
    ids = model.tokenizer.encoder.encode("set the kitchen light to thirty percent").ids
    ours, theirs = Reference(model).logits(ids), transformers_logits(out, ids)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    facts = receipt.load(out)
    assert len(facts["source"]["pruned"]) == 3 and facts["source"]["quality"]["retained"] == found["quality"]["retained"]
    (made,) = compiler.convert(model, ["gguf"], "q4", tmp_path / "gguf")
    assert made.failure is None and made.receipt["verification"]["engines"]["llamacpp"]["tokenizer"]["identical"]


@pytest.mark.slow
def test_for_people_and_twice(toy: Toy, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A random model's predictions hardly change with a channel less. What another step made is not replaced unasked."""
    start = ["prune", str(toy("qwen3")), "--text", text, "-o", str(tmp_path / "out"), "--no-verify", "--tokens", "256"]
    words = [*start, "--width", "0.75", "--min-quality", "0.5"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "MLP channels" in shown and "256 to 192" in shown and "+ quality: " in shown and "written: " in shown
    before = (tmp_path / "out" / receipt.NAME).stat().st_mtime_ns
    assert cli.main(words) == 0 and (tmp_path / "out" / receipt.NAME).stat().st_mtime_ns == before
    words[words.index("0.75")] = "0.5"
    assert cli.main(words) == OutputExists.exit_code
    assert cli.main([*words, "--force"]) == 0
    assert load(tmp_path / "out").spec.intermediate == 128


@pytest.mark.slow
def test_below_the_gate_nothing_is_written(toy: Toy, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", str(toy("qwen3")), "--text", text, "-o", str(tmp_path / "out"), "--layers", "2", "--tokens", "256"]
    assert cli.main([*words, "--min-quality", "1"]) == GateFailed.exit_code
    shown, complained = capsys.readouterr()
    assert "3 to 1; in this order: " in shown and "quality: " in shown and "not written: quality: " in complained
    assert cli.main([*words, "--min-quality", "1", "--json"]) == GateFailed.exit_code
    assert json.loads(capsys.readouterr().out)["folder"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_what_makes_no_sense(toy: Toy, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(toy("qwen3")), ["-o", str(tmp_path / "out")]
    for words, code in (
        ([folder, "--text", text], UsageError),
        ([folder, "--text", text, "--width", "1.5"], UsageError),
        ([folder, "--text", text, "--width", "0.75", "--min-quality", "2"], UsageError),
        ([folder, "--text", text, "--layers", "3"], UsageError),
        ([folder, "--text", text, "--layers", "-1"], UsageError),
        ([folder, "--text", text, "--layers", "1", "--tokens", "0"], UsageError),
        ([folder, "--text", text, "--vocabulary-size", "-1"], UsageError),
        ([folder, "--text", str(tmp_path / "nowhere"), "--layers", "1"], SourceNotFound),
        ([str(tmp_path / "nowhere"), "--text", text, "--layers", "1"], SourceNotFound),
    ):
        assert cli.main(["prune", *words, *out]) == code.exit_code, words
    (tmp_path / "short.txt").write_text("short")
    assert cli.main(["prune", folder, "--text", str(tmp_path / "short.txt"), "--layers", "1", *out]) == UsageError.exit_code
    (made,) = compiler.convert(load(folder), ["gguf"], "q4", tmp_path / "gguf", verify=False)
    assert cli.main(["prune", str(made.folder), "--text", text, "--layers", "1", *out]) == Unsupported.exit_code
    capsys.readouterr()
    assert cli.main(["prune", folder, "--text", text, "--layers", "1", "-o", str(tmp_path)]) == OutputExists.exit_code
