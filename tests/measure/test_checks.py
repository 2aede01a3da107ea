"""Files of checks: what is understood and what is refused, and every kind in a real engine."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slmops import compile as compiler
from slmops import run
from slmops.core import plugins, yaml12
from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.measure import checks, scorers, tasks
from slmops.source import load

Toy = Callable[..., Path]


def write(folder: Path, text: str) -> Path:
    path = folder / "checks.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_is_1_2(tmp_path: Path) -> None:
    """The core schema's own examples (YAML 1.2.2, 10.3.2 and the Norway problem of 1.1)."""
    text = """
on: {no: yes, off: 07:30, day: 2026-01-01, octal: 010}
nulls: [null, ~, ]
floats: [.5, -12e03, 1., 685.230]
texts: ["1", 'true', 1_000, 0o7, y, "\\uD83D"]
whole: [0, -19, +3, True]
"""
    found = yaml12.read(write(tmp_path, text))
    assert found["on"] == {"no": "yes", "off": "07:30", "day": "2026-01-01", "octal": 10} and found.line == 2
    assert found["nulls"] == [None, None] and found["floats"] == [0.5, -12000.0, 1.0, 685.23]
    assert found["texts"] == ["1", "true", "1_000", "0o7", "y", "\ud83d"] and found["whole"] == [0, -19, 3, True]


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("", 1, "a file of checks has a list"),
        ("checks: []", 1, "a file of checks has a list"),
        ("checks:\n  - memory: {growth_mb: 1}\nextra: 1", 1, "unknown key 'extra'"),
        ("context: yes\nchecks:\n  - memory: {growth_mb: 1}", 1, "'context' cannot be 'yes'"),
        ("checks:\n  - anwser: {prompt: a}", 2, "no kind of check called 'anwser'"),
        ("checks:\n  - name: x\n    memory: {growth_mb: 1}\n    latency: {}", 2, "a check has one kind"),
        ("checks:\n  - memory: {growth_mb: 1}\n\n  - latency: {lengths: [1], itl_ms: 1, itl: 2}", 4, "unknown key 'itl'"),
        ("checks:\n  - answer: {prompt: a, expectde: b}", 2, "takes no 'expectde'"),
        ("checks:\n  - answer: {prompt: a, scorer: regex, pattern: '('}", 2, "no regular expression"),
        ("checks:\n  - memory: {}", 2, "give a bound"),
        ("checks:\n  - memory: {growth_mb: -1}", 2, "above 0"),
        ("checks:\n  - latency: {lengths: [1, 2], itl_ms: [1]}", 2, "one for each of the 2"),
        ("checks:\n  - latency: {lengths: [true], itl_ms: 1}", 2, "list of numbers of tokens"),
        ("checks:\n  - invalid: {ids: [1], prompt: a}", 2, "give one of"),
        ("checks:\n  - invalid: {ids: [1], expect: mercy}", 2, "error, answer or either"),
        (
            "checks:\n  - {name: a, memory: {growth_mb: 1}}\n  - {name: a, memory: {growth_mb: 1}}",
            3,
            "two checks have the name",
        ),
        ("checks:\n  - memory: {growth_mb: 1, growth_mb: 2}", 2, "stands twice"),
        ("a: &x [1]\nb: *x", 1, "anchors and aliases"),
        ("a:\n  - !!python/object/apply:os.system [true]", 2, "tags are not taken"),
        ("a: {true: 1}", 1, "quote it"),
        ("a: [1", 1, "expected"),
        ("x: " + "[" * 100, 1, "too deeply nested"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(CorruptInput, match=f", line {line}[:,] ") as caught:
        checks.read(write(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for text in (None, "checks:\n  - cases: {file: nowhere.jsonl, at_least: 0.5}"):
        path = tmp_path / "nowhere.yaml" if text is None else write(tmp_path, text)
        with pytest.raises(SourceNotFound, match="nowhere"):
            checks.read(path)


def test_the_samples_own_checks_have_every_kind(sample: Path) -> None:
    assert {one.kind for one in checks.read(sample / "checks.yaml").checks} == set(plugins.names(checks.ROOM))


DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(name: str) -> str:
    """The first indented block of a page."""
    lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    "))
    return "\n".join(line[4:] for line in itertools.takewhile(lambda line: line.startswith("    "), lines[first:]))


def test_the_examples_of_the_pages_are_read_and_name_all_there_is(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "eval").symlink_to(sample / "eval", target_is_directory=True)
    assert len(checks.read(write(tmp_path, block("checks.md"))).checks) == 6
    (tmp_path / "cases.jsonl").write_text(block("tasks.md"), encoding="utf-8")
    assert [one.scorer for one in tasks.read_cases(tmp_path / "cases.jsonl")] == ["json", "json", "choice"]
    for page, room in (("checks.md", checks.ROOM), ("tasks.md", scorers.ROOM)):
        for name in plugins.names(room):
            assert f"\n| `{name}` |" in (DOCS / page).read_text(encoding="utf-8"), name


@pytest.fixture(scope="module")
def subject(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[checks.Subject]:
    """The sample's q8 in llama.cpp."""
    folder = tmp_path_factory.mktemp("made") / "q8"
    compiler.convert(load(sample), ["gguf"], "q8", folder, verify=False)
    with checks.Subject(run.Artifact.open(folder), "llamacpp", context=256) as opened:
        yield opened


def found(subject: checks.Subject, folder: Path, *kinds: str) -> list[checks.Result]:
    text = "checks:\n" + "\n".join(f"  - {kind}" for kind in kinds)
    return [checks.examine(one, subject) for one in checks.read(write(folder, text)).checks]


@pytest.mark.slow
def test_answers_and_cases(subject: checks.Subject, sample: Path, tmp_path: Path) -> None:
    light = "{tool: set_light, arguments: {level: 30, room: kitchen}}"
    asked = "prompt: please set the kitchen light to 30 percent, scorer: json"
    right, wrong, most, all_of_them, few = found(
        subject, tmp_path,
        f"answer: {{{asked}, expected: {light}}}",
        f"answer: {{{asked}, expected: {{tool: none}}}}",
        f"cases: {{file: {sample / 'eval' / 'tools.jsonl'}, count: 12, at_least: 0.5}}",
        f"cases: {{file: {sample / 'eval' / 'tools.jsonl'}, count: 6, at_least: 1}}",
        f"cases: {{file: {sample / 'eval' / 'tools.jsonl'}, count: 3, at_least: 0.9}}",
    )  # fmt: skip
    assert right.passed is True and right.details["marks"] == {"json": 1.0, "valid": 1.0}
    assert wrong.passed is False and "set_light" in wrong.said and "expected" in wrong.said
    assert most.passed is True and len(most.details["right"]) == 12 and "at least 0.5" in most.said
    assert all_of_them.passed is not True  # no interval of 6 cases clears 100 %
    assert few.passed is None and "more cases would decide it" in few.said


@pytest.mark.slow
def test_invalid_input_and_the_engine_lives_on(subject: checks.Subject, tmp_path: Path) -> None:
    ends = {one.name.split(": ")[1]: one for one in found(
        subject, tmp_path,
        "{name: '1: empty', invalid: {prompt: '', expect: answer}}",
        "{name: '2: no ids', invalid: {ids: [], expect: error}}",
        "{name: '3: beyond', invalid: {ids: [3, 70000], expect: error}}",
        "{name: '4: long', invalid: {tokens: 300, expect: error}}",
        "{name: '5: surrogate', invalid: {prompt: \"a \\uDC00 b\"}}",
        "{name: '6: fine', invalid: {prompt: hello, expect: error}}",
    )}  # fmt: skip
    assert {name for name, one in ends.items() if one.passed} == {"empty", "no ids", "beyond", "long", "surrogate"}
    assert "300 tokens, the context 256" in ends["long"].said and "expected: error" in ends["fine"].said


@pytest.mark.slow
def test_latency_and_memory_tell_figures_with_intervals(subject: checks.Subject, tmp_path: Path) -> None:
    loose, tight, long, memory, relative = found(
        subject, tmp_path,
        "latency: {lengths: [8, 64], first_token_ms: 60000, itl_ms: [60000, 60000], runs: 3, new_tokens: 4}",
        "latency: {lengths: [8], itl_ms: 0.000001, runs: 2, new_tokens: 4}",
        "latency: {lengths: [256], itl_ms: 60000}",
        "memory: {requests: 12, warm_up: 2, new_tokens: 2, growth_mb: 50}",
        "memory: {requests: 12, warm_up: 2, new_tokens: 2, growth_percent: 50}",
    )  # fmt: skip
    assert loose.passed is True and tight.passed is False and "(missed)" in tight.said
    for row in loose.details["lengths"]:
        assert 0 < row["first_token_ms"]["low"] <= row["first_token_ms"]["median"] <= row["first_token_ms"]["high"]
    assert long.passed is False and "context 256" in long.said
    assert memory.passed is True and len(memory.details["resident"]) == 12 and relative.passed is True
    assert min(memory.details["resident"]) > 10_000_000


@pytest.mark.slow
def test_a_leak_is_found(subject: checks.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's true figures, and 3 MB more each time."""
    held = [0]
    real = subject.worker.memory

    def leaky() -> dict[str, int]:
        held[0] += 3_000_000
        return {key: value + held[0] for key, value in real().items()}

    monkeypatch.setattr(subject.worker, "memory", leaky)
    (leak,) = found(subject, tmp_path, "memory: {requests: 20, warm_up: 4, new_tokens: 2, growth_mb: 20}")
    assert leak.passed is False and leak.details["growth"] == pytest.approx(19 * 3e6, rel=0.05)
    assert leak.details["low"] <= leak.details["growth"] <= leak.details["high"]


@pytest.mark.slow
def test_a_crash_fails_one_check_and_the_next_has_a_new_process(
    subject: checks.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = subject.worker.pid
    os.kill(before, signal.SIGKILL)
    crashed, fine = found(subject, tmp_path, "invalid: {prompt: a}", "invalid: {prompt: a, expect: answer}")
    assert crashed.passed is False and "EngineCrashed" in crashed.said
    assert fine.passed is True and subject.worker.pid != before


def test_at_most() -> None:
    estimate: Any = checks.Estimate
    assert checks.at_most(estimate(1, 0, 2, 9, 9), 2) is True
    assert checks.at_most(estimate(3, 2.5, 4, 9, 9), 2) is False
    assert checks.at_most(estimate(1, -math.inf, math.inf, 1, 1), 2) is None
