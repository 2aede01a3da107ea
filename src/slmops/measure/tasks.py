"""Tasks with one right answer, generated greedily in the real engine and compared as text."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.measure import statistics
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
        found = statistics.proportion(self.right, self.cases)
        return (found.low, found.high)


def read_cases(path: Path) -> list[Case]:
    """JSON lines of {"messages": [...], "expected": "...", "split": "..."}; CorruptInput names a bad line."""
    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give the path of one")
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


def spread(cases: Sequence[Case], count: int | None = None) -> list[Case]:
    """The cases in an order of which every beginning is spread over the file, so that every split is in; `count` of them."""
    # Multiples of the golden ratio, modulo 1, are evenly spread however many are taken (Weyl).
    order = sorted(range(len(cases)), key=lambda index: index * 0.6180339887498949 % 1.0)
    return [cases[index] for index in order[:count]]


@dataclass(frozen=True)
class Answers:
    """Which cases were answered as expected, in the order of the file: the same cases can be compared between artifacts."""

    right: tuple[bool, ...]
    splits: tuple[str, ...]

    def score(self, split: str = "all") -> Score:
        kept = [right for right, own in zip(self.right, self.splits, strict=True) if split in ("all", own)]
        return Score(sum(kept), len(kept))


def answer(
    worker: Worker, artifact: Artifact, cases: Sequence[Case], *, seconds: float = math.inf, least: int = 24
) -> Answers:
    """Greedy answers compared with the expected ones, stripped.

    Stops after `seconds`, but not before `least` cases: the answers say how many there were.
    """
    began = time.perf_counter()
    right: list[bool] = []
    for case in cases:
        ids = tokens_of(worker, artifact, artifact.prompt(case.messages))
        options = fit(Sampling(max_tokens=160), artifact, len(ids))
        text = "".join(token.text for token in worker.generate(ids, options))
        right.append(text.strip() == case.expected.strip())
        if len(right) >= least and time.perf_counter() - began > seconds:
            break
    return Answers(tuple(right), tuple(case.split for case in cases[: len(right)]))


def exact_match(
    worker: Worker, artifact: Artifact, cases: Sequence[Case], *, seconds: float = math.inf, least: int = 24
) -> dict[str, Score]:
    """`answer`, counted by split, and "all"."""
    found = answer(worker, artifact, cases, seconds=seconds, least=least)
    return {split: found.score(split) for split in dict.fromkeys((*found.splits, "all"))}
