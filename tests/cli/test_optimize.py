"""slmops optimize, as it is typed, on the sample and real engines."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slmops
from searched import CALM
from slmops import cli
from slmops.core.errors import GateFailed, SourceNotFound, UsageError

SAMPLE = Path(slmops.__file__).resolve().parents[2] / "samples" / "home"
Toy = Callable[..., Path]


def ran(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.main([*words, *CALM]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_choice_that_passes_and_a_second_run_that_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--max-size", "60%", "--objective", "size", "--json"]
    words += ["--format", "gguf", "--budget", "1h", "--report", str(tmp_path / "report.html")]
    found = ran(words, capsys)
    choice = found["choice"]
    assert choice["passed"] and choice["measured"]["bytes"] < 0.6 * 2 * 1_971_584
    assert choice["measured"]["quality"]["retained"]["low"] >= 0.95
    assert {one["gate"] for one in choice["verdicts"]} >= {"quality", "speed.spread<=100", "size", "faster than unquantized"}
    assert {one["gate"] for one in choice["verdicts"]} >= {"stress", "stability: answers", "stability.slowdown<=100"}
    assert choice["measured"]["stress"]["faults"] == [] and choice["measured"]["stability"]["requests"] > 60
    measured = [one["scheme"] for one in found["trials"]]
    assert measured[0] == "f16" and "q8" not in measured  # dropped by its size before anything was made
    assert all((tmp_path / "out" / one / "gguf" / "model.gguf").is_file() for one in measured)
    assert found["steps"] and "keeps at least" in found["steps"][0]
    smaller = [one for one in found["trials"] if one["measured"]["bytes"] < choice["measured"]["bytes"]]
    assert all(not one["passed"] for one in smaller)
    shown = (tmp_path / "report.html").read_text()
    for one in found["trials"]:
        assert f'<data value="{one["measured"]["quality"]["kl"]["value"]!r}">' in shown
    assert all(one["because"] in shown for one in found["dropped"]) and "is chosen for size" in shown
    assert found["artifacts"][0]["receipt"]["step"]["key"] in shown
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = ran(words, capsys)
    measured = {one["scheme"]: one["measured"] for one in again["trials"]}
    assert all(measured[one["scheme"]] == one["measured"] for one in found["trials"])
    assert again["choice"]["scheme"] == choice["scheme"]
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_impossible_demand_says_what_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--format", "gguf", "--budget", "1s"]
    assert cli.main([*words, "--max-size", "1kB"]) == GateFailed.exit_code
    shown, complained = capsys.readouterr()
    assert "nothing passed its gates" in complained and "the smallest, gguf q2_k" in complained
    assert re.search(r"lacks .*size", shown) and re.search(r"gguf q4_k_m +\S+ [kM]B on disk, 1\.00 kB are allowed", shown)


def test_what_makes_no_sense(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shutil.copytree(toy("llama"), tmp_path / "source")
    start = ["optimize", str(source), "-o", str(tmp_path / "out")]
    assert cli.main(start) == SourceNotFound.exit_code  # no text
    assert "--text" in capsys.readouterr().err
    same = ["--text", str(source / "config.json"), "--calibrate", str(source / "config.json")]
    assert cli.main([*start, *same]) == UsageError.exit_code
    odd = [["--gate", "kl.mean<=1"], ["--require", "size"], ["--objective", "size,price"], ["--executor", "nowhere"]]
    for words in (["--min-quality", "1.5"], ["--budget", "soon"], ["--max-size", "small"], *odd):
        assert cli.main([*start, *words]) == UsageError.exit_code
    assert not (tmp_path / "out").exists()


def test_a_smaller_kv_cache_where_memory_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a limit near what is predicted both are candidates."""
    start = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--format", "gguf", "--dry-run", "--json"]

    def kept(*more: str) -> dict[tuple[str, str], int]:
        assert cli.main([*start, *more]) == 0
        listed = json.loads(capsys.readouterr().out)["candidates"]
        return {(one["scheme"], one["kv"]): one["memory"]["likely"] for one in listed if not one["dropped"]}

    usual = kept()
    assert {kv for _, kv in usual} == {"auto"}
    both = kept("--max-memory", str(usual["q4", "auto"]))
    assert both["q4", "q8"] < both["q4", "auto"] and {kv for _, kv in kept("--kv", "f16")} == {"f16"}


def test_a_dry_run_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--dry-run", "--max-size", "60%"]) == 0
    shown = capsys.readouterr().out
    assert "gguf" in shown and "because" in shown and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_objectives_give_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--objective", "size,quality", "--json"]
    found = ran([*words, "--format", "gguf", "--format", "onnx", "--budget", "1h"], capsys)
    trials = {
        (one["format"], one["scheme"], one["engine"], one["kv"]): one["measured"] for one in found["trials"] if one["passed"]
    }
    figures = [
        (one["bytes"], max(1e-4, one["quality"]["kl"]["value"])) for one in map(trials.get, map(tuple, found["front"]))
    ]
    assert len(figures) >= 3 and figures == [
        one for one in figures if not any(a < one[0] and b < one[1] for a, b in figures)
    ]
    assert [found["choice"][key] for key in ("format", "scheme", "engine", "kv")] in found["front"]
    assert found["unmeasured"]  # not a grid
