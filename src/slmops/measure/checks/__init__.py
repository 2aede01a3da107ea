"""A user's own checks on an artifact, from a YAML file (docs/checks.md). One kind of check a file, which holds

KEYS, OPTIONAL       names of the keys that it must have, and may have; None where the kind tells of them itself
read(keys, folder)   -> the check as a function of a Subject; raises ValueError or SlmopsError for keys that make no sense.
                     `folder` is the one of the YAML file, from which paths are read

A check raises SlmopsError where the engine refuses what the check takes for granted: then it has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from slmops import run
from slmops.core import plugins, yaml12
from slmops.core.errors import CorruptInput, EngineCrashed, SlmopsError, UsageError
from slmops.engines import Sampling
from slmops.engines._host import Token, Worker
from slmops.measure.statistics import Estimate

ROOM = "measure.checks"
LARGE = "put the cases into a file of JSON lines: cases: {file: ...}"
CONTEXT = 1024
"""Tokens that the engine is opened for, unless the file says otherwise (and no more than the model has)."""


class Subject:
    """An artifact in its engine, opened when it is first needed, and anew after a crash. A context manager."""

    def __init__(
        self, artifact: run.Artifact, engine: str | None = None, device: str = "auto", context: int = CONTEXT
    ) -> None:
        self.artifact, self.context = artifact, min(context, artifact.context)
        self.engine = run.choose_engine(artifact.format, engine)
        self._device = device
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._worker = run.open_worker(self.artifact, self.engine, device=self._device, context=self.context)
        return self._worker

    def ids(self, count: int) -> list[int]:
        """A prompt of so many tokens."""
        return [5] * count

    def generate(self, ids: Sequence[int], max_tokens: int, ends: bool = True) -> Iterator[Token]:
        """Greedy; `ends` False: on over the end-of-text tokens. Raises UsageError where the prompt leaves no room."""
        sampling = run.fit(Sampling(max_tokens=max_tokens), self.artifact, len(ids), self.context)
        return self.worker.generate(ids, sampling if ends else Sampling(max_tokens=sampling.max_tokens))

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    passed: bool | None
    """None where the figures cannot tell: more are needed. That blocks, like a failure."""
    said: str
    """The figure, the bound and the sample size, or the answer that was not as expected."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """As data, for JSON."""


@dataclass(frozen=True)
class Check:
    """One check of a file."""

    name: str
    kind: str
    line: int
    ask: Callable[[Subject], Finding]


@dataclass(frozen=True)
class Result:
    """What came of one check."""

    name: str
    kind: str
    line: int
    passed: bool | None
    said: str
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checks:
    """A file."""

    path: Path
    context: int
    checks: tuple[Check, ...]


def read(path: Path) -> Checks:
    """The checks of a file. Raises SourceNotFound, or CorruptInput naming the line of what is not understood."""
    whole = yaml12.read(path, more=LARGE)
    line = getattr(whole, "line", 1)
    try:
        if not isinstance(whole, yaml12.Keys) or not isinstance(whole.get("checks"), list) or not whole["checks"]:
            raise ValueError("a file of checks has a list of them: 'checks:'")
        _known(whole, ("checks",), ("context",))
        context = whole.get("context", CONTEXT)
        if isinstance(context, bool) or not isinstance(context, int) or context < 2:
            raise ValueError(f"'context' cannot be {context!r}")
        found = []
        for number, keys in enumerate(whole["checks"], 1):
            line = getattr(keys, "line", line)
            found.append(_read(keys, number, path.parent))
        if repeated := {one.name for one in found if [each.name for each in found].count(one.name) > 1}:
            raise ValueError(f"two checks have the name {min(repeated)!r}")
    except (ValueError, UsageError) as error:
        cure = getattr(error, "cure", "") or "see docs/checks.md for what it holds"
        raise CorruptInput(f"{path}, line {line}: {error}", cure) from error
    return Checks(path, context, tuple(found))


def _read(keys: Any, number: int, folder: Path) -> Check:
    if not isinstance(keys, yaml12.Keys):
        raise ValueError("a check is a mapping of its kind to its keys")
    kinds = [key for key in keys if key != "name"]
    name = keys.get("name", f"{number}: {kinds[0] if kinds else ''}")
    if len(kinds) != 1 or not isinstance(name, str) or not name.strip():
        raise ValueError(f"a check has one kind, and may have a name: one of {', '.join(plugins.names(ROOM))}")
    kind = kinds[0]
    module, own = plugins.load(ROOM, kind), keys[kind]
    if not isinstance(own, yaml12.Keys):
        raise ValueError(f"{kind!r} is a mapping of keys")
    if module.KEYS is not None:
        _known(own, module.KEYS, module.OPTIONAL)
    return Check(name, kind, keys.line, module.read(own, folder))


def _known(keys: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str]) -> None:
    if unknown := [name for name in keys if name not in (*needed, *optional)]:
        raise ValueError(f"unknown key {' and '.join(map(repr, unknown))}; known: {', '.join((*needed, *optional))}")
    if lacking := [name for name in needed if name not in keys]:
        raise ValueError(f"{' and '.join(map(repr, lacking))} must be given")


def examine(check: Check, subject: Subject) -> Result:
    """Run one check. What the engine raises is a failure of it; a crash too, and the next check has a new process."""
    began = time.perf_counter()
    try:
        found = check.ask(subject)
    except SlmopsError as error:
        if isinstance(error, EngineCrashed):
            subject.close()
        found = Finding(False, told(error))
    seconds = time.perf_counter() - began
    return Result(check.name, check.kind, check.line, found.passed, found.said, seconds, found.details)


# ---- what the kinds share


def told(error: SlmopsError) -> str:
    """The kind of an error and its first line: some bindings add a page of their own signatures."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def whole(keys: Mapping[str, Any], name: str, default: int, least: int = 1) -> int:
    """A key that holds a whole number."""
    value = keys.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name!r} must be a whole number of at least {least}")
    return value


def positive(value: Any, name: str) -> float:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name!r} must be a number above 0")
    return float(value)


def at_most(found: Estimate, bound: float) -> bool | None:
    """Whether the whole interval keeps to the bound (True) or breaks it (False); None where it holds the bound."""
    return True if found.high <= bound else False if found.low > bound else None
