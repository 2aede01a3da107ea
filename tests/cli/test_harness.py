"""slmops harness without what it needs; tests/measure/test_harness.py has it with lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from slmops import cli
from slmops.core.errors import EngineMissing, SourceNotFound, UsageError


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["harness", "nowhere", "task"]) == EngineMissing.exit_code
    assert 'pip install "slmops[harness]"' in capsys.readouterr().err


def test_what_makes_no_sense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert cli.main(["harness", str(tmp_path), "task", "--limit", "-1"]) == UsageError.exit_code
    assert cli.main(["harness", str(tmp_path), "task", "--include", "nowhere"]) == SourceNotFound.exit_code
    assert cli.main(["harness", str(tmp_path), "task"]) == SourceNotFound.exit_code
