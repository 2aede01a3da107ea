"""Where trials run, one way a file. A file holds:

ELSEWHERE           whether trials run in other processes: what they need crosses as plain data, and paths must be theirs too
open(start, say)    a context manager of Nodes; start(check) is one of a Lab, called in the process where trials run. The lab
                    calls check() often, which may raise to end a trial
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from slmops.plan.decide import Candidate
from slmops.plan.hardware import Machine


class Lab(Protocol):
    """What makes, proves and measures candidates."""

    machine: Machine

    def outcome(self, one: Candidate) -> Any:
        """What came of a candidate; faults of the candidate alone are part of it."""
        ...


Start = Callable[[Callable[[], None]], AbstractContextManager[Lab]]
Say = Callable[[str], None]


class Nodes(Protocol):
    """Places where trials run, one at a time on each: concurrent ones would disturb each other's speed."""

    @property
    def machine(self) -> Machine:
        """The machine that candidates are predicted for: the first node's."""
        ...

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        ...

    def run(self, batch: Sequence[Candidate]) -> Iterator[tuple[Candidate, Any]]:
        """Each candidate with its outcome, as they come. Raises what concerns more than one candidate."""
        ...
