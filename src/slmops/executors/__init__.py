"""Where jobs run: candidates of a search (trials.py), steps of a pipeline (pipeline/running.py). One way a file:

ELSEWHERE           whether jobs run in other processes: what they need crosses as plain data, and paths must be theirs too
open(start, say)    a context manager of Nodes; start(check) is one of a Lab, called in the process where jobs run. The lab
                    calls check() often, which may raise to end a job
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from slmops.plan.hardware import Machine


class Lab(Protocol):
    """What does jobs: what makes, proves and measures candidates, say."""

    machine: Machine

    def outcome(self, one: Any) -> Any:
        """What came of a job; faults of the job alone are part of it."""
        ...


Start = Callable[[Callable[[], None]], AbstractContextManager[Lab]]
Say = Callable[[str], None]


class Nodes(Protocol):
    """Places where jobs run, one at a time on each: concurrent ones would disturb each other's speed."""

    @property
    def machine(self) -> Machine:
        """The first node's: candidates are predicted for it."""
        ...

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        ...

    def run(self, batch: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Each job with its outcome, as they come. Raises what concerns more than one."""
        ...
