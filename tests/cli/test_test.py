"""slmops test, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from slmops import cli
from slmops import compile as compiler
from slmops.core.errors import CheckFailed, CorruptInput, SourceNotFound
from slmops.source import load

Toy = Callable[..., Path]
FAILS = """
checks:
  - name: says never
    answer: {prompt: say it, expected: never, max_tokens: 4}
  - {name: long, invalid: {tokens: 99999, expect: error}}
"""


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy in GGUF, and checks of which one fails."""
    out = tmp_path_factory.mktemp("made")
    compiler.convert(load(toy("qwen3")), ["gguf"], "q8", out / "gguf", verify=False)
    (out / "checks.yaml").write_text(FAILS)
    return out


@pytest.mark.slow
def test_the_samples_checks_hold_for_its_artifact(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler.convert(load(sample), ["onnx"], "q4", tmp_path / "onnx", verify=False)
    # Bounds of time are for a quiet machine: here only that they are taken. Fewer cases have a wider interval.
    text = (sample / "checks.yaml").read_text(encoding="utf-8").replace("_ms: ", "_ms: 1000")
    text = text.replace("count: 60, at_least: 0.75", "count: 12, at_least: 0.5")
    (tmp_path / "checks.yaml").write_text(text.replace("eval/", f"{sample}/eval/"), encoding="utf-8")
    assert cli.main(["test", str(tmp_path / "onnx"), str(tmp_path / "checks.yaml")]) == 0, capsys.readouterr()
    assert "13 of 13 hold in onnxruntime" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failure_has_its_exit_code_its_line_and_its_place_in_junit(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test", str(made / "gguf"), str(made / "checks.yaml"), "--junit", str(tmp_path / "junit.xml"), "--json"]
    assert cli.main(words) == CheckFailed.exit_code == 14
    captured = capsys.readouterr()
    assert "1 of 2 checks did not hold" in captured.err and "line 3: says never" in captured.err
    found = json.loads(captured.out)
    assert [one["passed"] for one in found["checks"]] == [False, True] and found["engine"] == "llamacpp"
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failed, passed = suite.findall("testcase")
    assert failed.get("name") == "says never" and "exact 0" in (failed.find("failure").text or "")  # type: ignore[union-attr]
    assert passed.find("failure") is None


def test_junit_of_what_xml_cannot_hold(tmp_path: Path) -> None:
    from slmops.cli import test
    from slmops.measure.checks import Result

    said = "\x00 \x1b[31m \ud800 <&> \U0001f600"
    test._junit(
        tmp_path / "j.xml", "a", "b", [Result(said, "answer", 1, False, said, 0.1), Result("", "memory", 2, None, "", 0)]
    )
    cases = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    assert [one.get("name") for one in cases] == ["\ufffd \ufffd[31m \ufffd <&> \U0001f600", ""]


def test_what_makes_no_sense(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = str(made / "gguf"), str(made / "checks.yaml")
    (tmp_path / "bad.yaml").write_text("checks: 3")
    assert cli.main(["test", folder, str(tmp_path / "nowhere.yaml")]) == SourceNotFound.exit_code
    assert cli.main(["test", str(tmp_path), file]) == SourceNotFound.exit_code
    assert cli.main(["test", folder, str(tmp_path / "bad.yaml")]) == CorruptInput.exit_code
    assert cli.main(["test", folder, file, "--junit", str(tmp_path / "no" / "where.xml")]) == SourceNotFound.exit_code
    assert capsys.readouterr().err.count("slmops: ") == 4
