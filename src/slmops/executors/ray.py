"""Jobs on the nodes of a Ray cluster, one at a time on each: an actor a node holds all of its processors.

The cluster is the one that RAY_ADDRESS names, or the one that runs here. Each node needs the same installation of slmops,
and the source and -o on storage that all share, under one path: artifacts and measurements are written there.
Ray's own token authentication is honoured: RAY_AUTH_MODE=token and a token, on every node and here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from slmops.core.errors import EngineMissing, SlmopsError, UsageError
from slmops.executors import Say, Start
from slmops.plan.hardware import Machine

ELSEWHERE = True
INSTALL = 'pip install "slmops[ray]"'
START_SECONDS, STOP_SECONDS = 300, 30


class Ended(Exception):
    """Raised in a trial that nobody waits for any more."""


class Lost(UsageError):
    """A node is gone, or cannot begin."""


class Node:
    """An actor: a lab, and the means to end its trial from outside. Faults cross as (kind, words, cure)."""

    def __init__(self, start: Start) -> None:
        self._stack, self._over = contextlib.ExitStack(), threading.Event()
        self._lab = self._stack.enter_context(start(self._check))
        self._busy = threading.Lock()

    def _check(self) -> None:
        if self._over.is_set():
            raise Ended

    def facts(self) -> tuple[Machine, str]:
        return self._lab.machine, os.uname().nodename

    def outcome(self, one: Any) -> Any:
        with self._busy:
            return self._lab.outcome(one)

    def close(self) -> None:
        """End the trial at its next step, and remove what the lab holds."""
        self._over.set()
        with self._busy:
            self._stack.close()


@contextlib.contextmanager
def open(start: Start, say: Say) -> Iterator[Nodes]:
    """Raises EngineMissing without Ray, UsageError without a cluster."""
    if importlib.util.find_spec("ray") is None:
        raise EngineMissing("Ray is not installed", INSTALL)
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else _joined(ray):
        actors: list[Any] = []
        try:
            actors += _actors(ray, start)
            yield Nodes(ray, actors, say)
        finally:
            _end(ray, actors)


@contextlib.contextmanager
def _joined(ray: Any) -> Iterator[None]:
    """Part of the cluster. Ray tells of faults of its nodes on standard output, which is for answers."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            # A cluster must be there: Ray would otherwise start one of this machine alone.
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster can be reached: {str(error).splitlines()[0]}",
                "ray start --head on one machine, RAY_ADDRESS here, the same RAY_AUTH_MODE and token on all",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _actors(ray: Any, start: Start) -> list[Any]:
    """One a living node that has processors to give."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = []
    for node in sorted(ray.nodes(), key=lambda one: str(one["NodeID"])):
        if node["Alive"] and (processors := node["Resources"].get("CPU", 0)) >= 1:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": processors, "scheduling_strategy": place, "max_concurrency": 2, "max_restarts": 0}
            found.append(ray.remote(Node).options(**options).remote(start))
    if not found:
        raise UsageError("no node of the Ray cluster has a processor to give", "start nodes with --num-cpus of 1 or more")
    return found


def _end(ray: Any, actors: Sequence[Any]) -> None:
    with contextlib.suppress(Exception):  # a node may be gone
        ray.wait([one.close.remote() for one in actors], num_returns=len(actors), timeout=STOP_SECONDS)
    for one in actors:
        with contextlib.suppress(Exception):
            ray.kill(one)


class Nodes:
    """The actors. See executors.Nodes. A node that is lost takes its trial with it, which another one begins anew."""

    def __init__(self, ray: Any, actors: Sequence[Any], say: Say) -> None:
        self._ray, self._actors, self._say = ray, list(actors), say
        facts = self._get([one.facts.remote() for one in actors], START_SECONDS)
        self.machine: Machine = facts[0][0]
        hosts = [host for _, host in facts]
        say(f"{len(hosts)} nodes: {', '.join(sorted(set(hosts)))}")
        if len(set(hosts)) < len(hosts):
            say("some of these nodes are one machine: their trials disturb each other's speed")

    @property
    def slots(self) -> int:
        return len(self._actors)

    def run(self, batch: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        jobs, tried = deque(enumerate(batch)), set[int]()
        waiting: dict[Any, tuple[Any, int, Any]] = {}
        while jobs or waiting:
            at_work = [actor for actor, _, _ in waiting.values()]
            for actor in [one for one in self._actors if one not in at_work]:
                if jobs and self._answers(actor):
                    number, one = jobs.popleft()
                    waiting[actor.outcome.remote(one)] = (actor, number, one)
            (done,), _ = self._ray.wait(list(waiting), num_returns=1)
            actor, number, one = waiting.pop(done)
            try:
                outcome = self._get(done)
            except Lost as fault:
                self._forget(actor, fault)
                if number in tried:  # what takes two nodes with it would take them all
                    raise
                tried.add(number)
                jobs.append((number, one))
            else:
                yield one, outcome

    def _answers(self, actor: Any) -> bool:
        """Whether it is there still: a trial is not to blame for a node that was lost before it began."""
        try:
            self._get(actor.facts.remote(), START_SECONDS)
        except Lost as fault:
            self._forget(actor, fault)
            return False
        return True

    def _forget(self, actor: Any, fault: Lost) -> None:
        """Go on without it. Raises the fault where it was the last."""
        self._actors.remove(actor)
        if not self._actors:
            raise fault
        self._say(f"{fault}; {len(self._actors)} go on")

    def _get(self, what: Any, timeout: float | None = None) -> Any:
        """Ray's result. A fault of ours on a node is raised as itself, a node that is gone as Lost, one that cannot be
        reached as UsageError: it may compute still, and what it writes must not be begun anew elsewhere."""
        known = self._ray.exceptions
        try:
            return self._ray.get(what, timeout=timeout)
        except known.RayTaskError as error:
            if isinstance(error.cause, SlmopsError):
                raise error.cause from None
            raise
        except (known.ActorDiedError, known.NodeDiedError, known.OutOfMemoryError, known.ObjectLostError) as error:
            cause = getattr(error, "cause", None)
            fault = str(cause or error).strip().splitlines()[-1]
            raise Lost(f"a node of the Ray cluster is lost, or cannot begin: {fault}", "see to it and run again") from error
        except (known.ActorUnavailableError, known.GetTimeoutError) as error:
            raise UsageError("a node of the Ray cluster cannot be reached", "see to it and run again") from error
