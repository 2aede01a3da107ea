"""Tasks: cases from a file of JSON lines, each answered in the real engine and weighed by a scorer (measure/scorers).

A line is one case:

    messages | prompt | raw    a conversation; what a user says; a text that is continued as it stands, without chat template
    scorer                     a file of measure/scorers ("exact" by default), and that scorer's own keys (expected, ...)
    metric, least              which of the scorer's figures counts (its first), and from what on the answer is right (1)
    max_tokens                 of the answer (160)
    split, note                a part of the file that is counted for itself; anything, which is not read

The first line may be {"defaults": {...}}: keys of every case that does not say otherwise. Unknown keys are errors.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.core import plugins
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported, UsageError
from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.measure import scorers, statistics
from slmops.measure.scorers import Marks
from slmops.measure.statistics import Estimate
from slmops.run import Artifact, fit, tokens_of

MOST_CASES = 100_000
QUESTIONS = ("messages", "prompt", "raw")
COMMON = {"scorer": str, "metric": str, "least": int | float, "max_tokens": int, "split": str, "note": object}


@dataclass(frozen=True)
class Case:
    """One question and what its answer is held against."""

    messages: tuple[Mapping[str, Any], ...] = ()
    raw: str | None = None
    """Continued as it stands; then there are no messages."""
    scorer: str = "exact"
    keys: Mapping[str, Any] = field(default_factory=dict)
    """The scorer's own."""
    metric: str = "exact"
    least: float = 1.0
    max_tokens: int = 160
    split: str = ""

    def text(self, artifact: Artifact) -> str:
        """What the model is given. Raises UsageError where a conversation meets a model without a chat template."""
        return artifact.prompt(self.messages) if self.raw is None else self.raw


@dataclass(frozen=True)
class Score:
    """Right answers among cases, with Wilson's 95 % interval."""

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
    """The cases of a file; CorruptInput names a bad line."""
    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give the path of one")
    cases: list[Case] = []
    defaults: Mapping[str, Any] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
                if number == 1 and isinstance(value, dict) and set(value) == {"defaults"}:
                    defaults = value["defaults"]
                    continue
                cases.append(case({**defaults, **value}))
            except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
                cure = getattr(error, "cure", "") or "each line is a case: messages or prompt, scorer, expected, ..."
                raise CorruptInput(f"{path}, line {number}: {error}", cure) from error
            if number > MOST_CASES:
                raise CorruptInput(f"{path} holds more than {MOST_CASES} cases")
    return cases


def case(value: Mapping[str, Any]) -> Case:
    """A case of its keys. Raises ValueError or UsageError for what is not one."""
    asked = [name for name in QUESTIONS if name in value]
    if len(asked) != 1:
        raise ValueError(f"a case has one of {', '.join(QUESTIONS)}, this one has {' and '.join(asked) or 'none'}")
    for name, kind in COMMON.items():
        if name in value and (not isinstance(value[name], kind) or (isinstance(value[name], bool) and kind is not object)):
            raise ValueError(f"{name!r} cannot be {value[name]!r}")
    question, scorer = value[asked[0]], value.get("scorer", "exact")
    keys = {name: one for name, one in value.items() if name not in COMMON and name not in QUESTIONS}
    scorers.make(scorer, keys)  # so that what is wrong with them is said before anything is run
    metrics = plugins.load(scorers.ROOM, scorer).METRICS
    found = Case(
        messages=_messages(question, asked[0]),
        raw=question if asked[0] == "raw" else None,
        scorer=scorer,
        keys=keys,
        metric=value.get("metric", metrics[0]),
        least=float(value.get("least", 1.0)),
        max_tokens=value.get("max_tokens", 160),
        split=value.get("split", ""),
    )
    if found.metric not in metrics:
        raise ValueError(f"the scorer {scorer} gives no {found.metric!r}, but {', '.join(metrics)}")
    if not 0 < found.least <= 1 or found.max_tokens < 1:
        raise ValueError("'least' is above 0 and at most 1, 'max_tokens' at least 1")
    return found


def _messages(question: Any, kind: str) -> tuple[Mapping[str, Any], ...]:
    if kind == "messages":
        if not isinstance(question, list) or not all(isinstance(one, dict) for one in question):
            raise ValueError("'messages' must be a list of messages, each with role and content")
        return tuple(question)
    if not isinstance(question, str):
        raise ValueError(f"{kind!r} must be a text")
    return ({"role": "user", "content": question},) if kind == "prompt" else ()


def spread(cases: Sequence[Case], count: int | None = None) -> list[Case]:
    """The cases in an order of which every beginning is spread over the file, so that every split is in; `count` of them."""
    # Multiples of the golden ratio, modulo 1, are evenly spread however many are taken (Weyl).
    order = sorted(range(len(cases)), key=lambda index: index * 0.6180339887498949 % 1.0)
    return [cases[index] for index in order[:count]]


@dataclass(frozen=True)
class Answers:
    """Which cases were answered right, in the order of the file: the same cases can be compared between artifacts."""

    right: tuple[bool, ...]
    splits: tuple[str, ...]
    marks: tuple[Marks, ...] = ()
    """What the scorer of each case gave: name of the figure -> its value."""

    def score(self, split: str = "all") -> Score:
        kept = [right for right, own in zip(self.right, self.splits, strict=True) if split in ("all", own)]
        return Score(sum(kept), len(kept))

    def figures(self) -> dict[str, Estimate]:
        """The mean of each of the scorers' figures over the cases that have it; Wilson's interval where all are 0 or 1."""
        names = dict.fromkeys(name for marks in self.marks for name in marks)
        return {name: _mean([marks[name] for marks in self.marks if name in marks]) for name in names}


def _mean(values: list[float]) -> Estimate:
    if set(values) <= {0.0, 1.0}:
        return statistics.proportion(int(sum(values)), len(values))
    return statistics.mean(values)


@dataclass(frozen=True)
class Answer:
    """What came of one case."""

    text: str
    """What the engine said, or the choice that it finds likeliest."""
    marks: Marks
    right: bool


def ask(worker: Worker, artifact: Artifact, case: Case) -> Answer:
    """One case, answered greedily or by log-likelihood. Raises Unsupported where its scorer needs logits and gets none."""
    score = scorers.make(case.scorer, case.keys)
    if (choices := scorers.continuations(case.scorer, case.keys)) is not None:
        needs_logits(worker.engine, f"the scorer {case.scorer}")
        context = case.text(artifact)
        sums = [total for total, _ in worker.likelihoods([pair(worker, artifact, context, one) for one in choices])]
        marks, text = score(sums), choices[max(range(len(sums)), key=sums.__getitem__)]
    else:
        text = "".join(generate(worker, artifact, tokens_of(worker, artifact, case.text(artifact)), case.max_tokens))
        marks = score(text)
    return Answer(text, marks, marks[case.metric] >= case.least)


def needs_logits(engine: str, what: str) -> None:
    """Raise Unsupported for an engine that only generates: what it does not tell is not guessed."""
    if "logits" not in plugins.load("engines", engine).CAN:
        raise Unsupported(f"{engine} gives no logits, and {what} goes by them", "choose another --engine")


def generate(worker: Worker, artifact: Artifact, ids: list[int], max_tokens: int) -> Iterator[str]:
    """Pieces of a greedy answer."""
    return (token.text for token in worker.generate(ids, fit(Sampling(max_tokens=max_tokens), artifact, len(ids))))


def pair(worker: Worker, artifact: Artifact, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of both, as they come of the whole text; blanks at the end of the context go to the continuation, where a
    tokenizer puts them (lm-evaluation-harness's TemplateLM._encode_pair). Raises UsageError where nothing is left."""
    whole = tokens_of(worker, artifact, context + continuation)
    start = len(tokens_of(worker, artifact, context.rstrip()))
    if not 0 < start < len(whole):
        raise UsageError(f"the tokens of {continuation[:40]!r} cannot be told from those before it", "begin both otherwise")
    return whole[:start], whole[start:]


def answer(
    worker: Worker, artifact: Artifact, cases: Sequence[Case], *, seconds: float = math.inf, least: int = 24
) -> Answers:
    """The cases in turn. Stops after `seconds`, but not before `least` cases: the answers say how many there were."""
    for one in cases:
        if scorers.continuations(one.scorer, one.keys) is not None:
            needs_logits(worker.engine, f"the scorer {one.scorer}")
    began = time.perf_counter()
    found: list[Answer] = []
    for one in cases:
        found.append(ask(worker, artifact, one))
        if len(found) >= least and time.perf_counter() - began > seconds:
            break
    splits = tuple(one.split for one in cases[: len(found)])
    return Answers(tuple(one.right for one in found), splits, tuple(one.marks for one in found))


def exact_match(
    worker: Worker, artifact: Artifact, cases: Sequence[Case], *, seconds: float = math.inf, least: int = 24
) -> dict[str, Score]:
    """`answer`, counted by split, and "all"."""
    found = answer(worker, artifact, cases, seconds=seconds, least=least)
    return {split: found.score(split) for split in dict.fromkeys((*found.splits, "all"))}
