"""slmops plan, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slmops import cli
from slmops.cli import _units
from slmops.core.errors import UsageError
from slmops.core.tensor import Stored

Toy = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Stored, start: int, stop: int) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Stored, "rows", refuse)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def test_plan_in_json(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "plan", str(toy("qwen3")), "--json", "--max-memory", "1GiB", "--context", "256"))
    assert found["limits"] == {"size": None, "memory": 1 << 30, "speed": None, "context": 256, "kv": None}
    assert found["machine"]["measured"] and found["relax"] == []
    for one in found["candidates"]:
        if one["memory"]:
            assert one["memory"]["low"] < one["memory"]["likely"] < one["memory"]["high"]
            assert one["bytes"] > 0 and one["tokens_per_second"]["likely"] > 0


def test_plan_for_people(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "plan", str(toy("qwen3")), "--target", "android", "--all", "--max-size", "40%")
    for words in ("for android (3.60 GB of memory, 35.0 GB/s, described)", "gguf", "onnx", "because", "are allowed"):
        assert words in shown
    assert "openvino" not in shown and "mlx" not in shown
    assert "more were dropped" in said(capsys, "plan", str(toy("qwen3")), "--target", "android", "--max-size", "40%")


def test_plan_with_nothing_left(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "plan", str(toy("qwen3")), "--target", "raspberry-pi", "--max-size", "1kB")
    assert "nothing is left within these limits" in shown and "- the smallest, gguf" in shown


@pytest.mark.parametrize(
    "words",
    [
        ("--max-size", "huge"),
        ("--context", "0"),
        ("--target", "toaster"),
        ("--format", "zip"),
        ("--min-speed", "3 km/h"),
        ("--max-memory", "50%"),
    ],
)
def test_what_makes_no_sense(toy: Toy, words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(toy("qwen3")), *words]) == UsageError.exit_code
    assert "slmops: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1GiB", 1 << 30),
        ("800MB", 800_000_000),
        ("1.5 gb", 1_500_000_000),
        ("60%", 600),
        ("4096", 4096),
        ("1e6", 1_000_000),
        ("2k", 2000),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert _units.size(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1 parsec", "1GB2", "nan", "inf"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        _units.size(text)
    with pytest.raises(UsageError):
        _units.rate(text)
