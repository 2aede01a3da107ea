"""A file of cases (measure/tasks.py): the share that is right must be `at_least`, with the whole of Wilson's interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmops.measure import checks, gates, statistics, tasks

KEYS, OPTIONAL = ("file", "at_least"), ("count",)


def read(keys: dict[str, Any], folder: Path) -> Callable[[checks.Subject], checks.Finding]:
    if not isinstance(keys["file"], str):
        raise ValueError("'file' must be a path")
    bound = checks.positive(keys["at_least"], "at_least")
    if bound > 1:
        raise ValueError("'at_least' is a share, at most 1")
    cases = tasks.read_cases(folder / keys["file"])
    cases = tasks.spread(cases, checks.whole(keys, "count", len(cases)))

    def ask(subject: checks.Subject) -> checks.Finding:
        answers = [tasks.ask(subject.worker, subject.artifact, one) for one in cases]
        found = statistics.proportion(sum(one.right for one in answers), len(answers))
        verdict = gates.at_least("right", found, bound, "cases")
        wrong = next((f"; the first wrong one said: {one.text[:100]}" for one in answers if not one.right), "")
        said = verdict.said + (wrong if not verdict.passed else "")
        return checks.Finding(verdict.passed, said, {"right": [one.right for one in answers]})

    return ask
