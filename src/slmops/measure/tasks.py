"""Tasks with one right answer, generated greedily in the real engine and compared as text."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput
from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.run import Artifact, fit, tokens_of

MOST_CASES = 100_000


@dataclass(frozen=True)
class Case:
    """One conversation and the one right answer to it."""

    messages: tuple[Mapping[str, Any], ...]
    expected: str
    split: str


@dataclass(frozen=True)
class Score:
    """Exact matches among cases, with Wilson's 95 % interval."""

    right: int
    cases: int

    @property
    def rate(self) -> float:
        return self.right / self.cases if self.cases else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 1927, z = 1.96."""
        if not self.cases:
            return (0.0, 1.0)
        z2, n, p = 1.96**2, self.cases, self.rate
        middle, half = (p + z2 / (2 * n)), 1.96 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return ((middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n))


def read_cases(path: Path) -> list[Case]:
    """JSON lines of {"messages": [...], "expected": "...", "split": "..."}; raises CorruptInput naming the line."""
    cases = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
                cases.append(Case(tuple(value["messages"]), str(value["expected"]), str(value.get("split", ""))))
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptInput(f"{path}, line {number}: {error!r}", "each line is a case: messages, expected") from error
            if number > MOST_CASES:
                raise CorruptInput(f"{path} holds more than {MOST_CASES} cases")
    return cases


def exact_match(
    worker: Worker, artifact: Artifact, cases: Sequence[Case], *, seconds: float = math.inf, least: int = 24
) -> dict[str, Score]:
    """Greedy answers compared with the expected ones, stripped; by split, and "all".

    Stops after `seconds`, but not before `least` cases: a Score says of how many it is.
    """
    began = time.perf_counter()
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for case in cases:
        ids = tokens_of(worker, artifact, artifact.prompt(case.messages))
        options = fit(Sampling(max_tokens=160), artifact, len(ids))
        answer = "".join(token.text for token in worker.generate(ids, options))
        for split in {case.split, "all"}:
            total[split] = total.get(split, 0) + 1
            right[split] = right.get(split, 0) + (answer.strip() == case.expected.strip())
        if total["all"] >= least and time.perf_counter() - began > seconds:
            break
    return {split: Score(right[split], total[split]) for split in total}
