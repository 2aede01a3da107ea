"""The pytest plugin, run by pytest's own tester."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slmops import compile as compiler
from slmops.source import load

pytest_plugins = ["pytester"]
Toy = Callable[..., Path]
# Where slmops is installed, its entry point would bring the plugin a second time.
PLUGIN = ("-p", "no:slmops", "-p", "slmops.pytest_checks", "-p", "no:cacheprovider")
CHECKS = """
context: 128
checks:
  - name: an empty prompt
    invalid: {prompt: ""}
  - name: says never
    answer: {prompt: say it, expected: never, max_tokens: 4}
  - name: too long
    invalid: {tokens: 500, expect: error}
"""


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "gguf"
    compiler.convert(load(toy("qwen3")), ["gguf"], "q8", folder, verify=False)
    return folder


@pytest.mark.slow
def test_each_check_is_an_item(made: Path, pytester: pytest.Pytester) -> None:
    (pytester.path / "model.slmops.yaml").write_text(CHECKS)
    (pytester.path / "other.yaml").write_text("no: checks")
    found = pytester.runpytest_subprocess(*PLUGIN, "--slmops-model", str(made), "-v")
    found.assert_outcomes(passed=2, failed=1)
    found.stdout.fnmatch_lines([
        "*model.slmops.yaml::an empty prompt PASSED*",
        "*model.slmops.yaml::says never FAILED*",
        "*model.slmops.yaml:6: the check 'says never' (answer) failed",
        "exact 0; it said: *; expected: never",
    ])  # fmt: skip
    found.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.slow
def test_the_model_of_the_ini_file_from_the_root_directory(made: Path, pytester: pytest.Pytester) -> None:
    (pytester.path / "below").mkdir()
    (pytester.path / "below" / "model.slmops.yml").write_text(CHECKS)
    (pytester.path / "made").symlink_to(made, target_is_directory=True)
    pytester.makeini("[pytest]\nslmops_model = made\n")
    found = pytester.runpytest_subprocess(*PLUGIN, "-k", "empty or long", "--rootdir", str(pytester.path), "below")
    found.assert_outcomes(passed=2, deselected=1)


@pytest.mark.slow
def test_without_a_model_the_checks_are_skipped_and_say_so(pytester: pytest.Pytester) -> None:
    (pytester.path / "model.slmops.yaml").write_text(CHECKS)
    found = pytester.runpytest_subprocess(*PLUGIN, "-rs")
    found.assert_outcomes(skipped=3)
    found.stdout.fnmatch_lines(["*no model to check: give --slmops-model*"])


@pytest.mark.slow
def test_a_bad_file_and_a_bad_model_are_told_without_a_traceback(pytester: pytest.Pytester) -> None:
    (pytester.path / "model.slmops.yaml").write_text(CHECKS.replace("{tokens", "{tokns"))
    found = pytester.runpytest_subprocess(*PLUGIN)
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*model.slmops.yaml, line 8: unknown key 'tokns'*"])
    (pytester.path / "model.slmops.yaml").write_text(CHECKS)
    found = pytester.runpytest_subprocess(*PLUGIN, "--slmops-model", "nowhere")
    found.assert_outcomes(failed=3)
    found.stdout.fnmatch_lines(["*nowhere is not an artifact*"])
    found.stdout.no_fnmatch_line("*Traceback*")


def test_nothing_heavy_is_imported_for_other_peoples_tests() -> None:
    script = "import sys, slmops.pytest_checks; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"numpy", "yaml", "slmops.run", "slmops.measure"} & set(loaded)
