"""Jobs on this machine, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.executors import Lab, Say, Start
from slmops.plan.hardware import Machine

ELSEWHERE = False


@contextlib.contextmanager
def open(start: Start, say: Say) -> Iterator[Here]:
    with start(lambda: None) as lab:
        yield Here(lab)


@dataclass(frozen=True)
class Here:
    """This process. See executors.Nodes."""

    lab: Lab
    slots: int = 1

    @property
    def machine(self) -> Machine:
        return self.lab.machine

    def run(self, batch: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for one in batch:
            yield one, self.lab.outcome(one)
