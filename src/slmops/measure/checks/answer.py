"""One case (measure/tasks.py): the answer must be right by its scorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmops.measure import checks, tasks

KEYS, OPTIONAL = None, ()
SHOWN = 300
"""Characters of a wrong answer."""


def read(keys: dict[str, Any], folder: Path) -> Callable[[checks.Subject], checks.Finding]:
    case = tasks.case(keys)

    def ask(subject: checks.Subject) -> checks.Finding:
        answer = tasks.ask(subject.worker, subject.artifact, case)
        figures = ", ".join(f"{name} {value:.3g}" for name, value in answer.marks.items())
        said = f"{figures}; it said: {answer.text[:SHOWN]}"
        wanted = f"; expected: {case.keys['expected']}" if "expected" in case.keys and not answer.right else ""
        return checks.Finding(answer.right, said + wanted, {"answer": answer.text, "marks": dict(answer.marks)})

    return ask
