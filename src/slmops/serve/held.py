"""One model that a server holds: what it takes, how long it stays, and what is told of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from slmops.core.errors import EngineCrashed, EngineFailed, SlmopsError
from slmops.serve import room
from slmops.serve.backend import Backend
from slmops.serve.names import Target
from slmops.serve.request import Served

log = logging.getLogger("slmops.models")


@dataclass(frozen=True)
class State:
    """What a model is at, for people, metrics and health checks."""

    name: str
    names: tuple[str, ...]
    """That requests came under."""
    digest: str
    engine: str
    format: str
    scheme: str
    precision: str
    """Of weights and activations, as the engine says."""
    loaded: bool
    memory: int
    """Bytes resident of its worker."""
    expected: int
    """Bytes that it is counted with: what was measured, and what its context may still take."""
    running: int
    waiting: int
    pinned: bool
    since: float | None
    """When it was loaded, in seconds since 1970."""
    expires: float | None
    """When it is unloaded if no request comes; None: not by itself."""
    loads: int
    failures: int
    restarts: int
    fault: str
    """Why it could not be loaded, lately."""
    effective: Mapping[str, str]
    cache: float | None
    """Share of the KV cache that requests in flight hold; None where that is not known."""


@dataclass(eq=False)
class Held:
    """A model and what is known of its life."""

    model: Backend
    target: Target
    need: room.Need
    release: Callable[[], None]
    keep_alive: float | None
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest, in the order in which the engine has them."""
    pinned: bool = False
    reserved: int = 0
    """Bytes that are kept for it while it is loaded."""
    measured: int = 0
    expected: int = 0
    """What it takes by measurement; 0 before there is one."""
    pid: int | None = None
    """Of the worker that was measured."""
    beside: Held | None = None
    """The version that answers until this one is loaded, and is not unloaded for it if that can be."""
    crowded: bool = False
    """Both do not fit."""
    loading: bool = False
    """By a thread of its own."""

    def measure(self) -> None:
        pid = self.model.pid
        if pid is None or not self.model.loaded:
            self.measured, self.pid = 0, None
            return
        self.measured = room.taken(pid)
        if pid != self.pid:
            # What has not been read of mapped weights comes with the first requests.
            self.pid, self.expected = pid, max(self.measured, self.need.weights) + self.need.grows
            self.reserved = 0
            told = {"model": self.target.name, "digest": self.target.digest, "engine": self.model.engine}
            log.info("loaded", extra={**told, "seconds": round(self.model.load_seconds, 3), "memory": self.measured})
        self.expected = max(self.expected, self.measured)

    def served(self, target: Target) -> Served:
        """What answers where a name leads here."""
        common = Served(target.name, target.digest, self.model.engine, self.need.scheme, target.release)
        if not target.entry.base:
            return common
        name = target.entry.name
        return replace(
            common,
            digest=self.adapters[name],
            adapter=list(self.adapters).index(name),
            base=target.digest or target.entry.base,
        )

    @property
    def counted(self) -> int:
        """Bytes to count it with."""
        return self.expected if self.pid is not None else self.reserved

    @property
    def spare(self) -> bool:
        """Whether unloading it hurts nobody and frees something: what another server computes takes nothing here."""
        return not self.pinned and not self.model.busy and self.counted > 0

    @property
    def expires(self) -> float | None:
        """In seconds of time.monotonic."""
        if self.pinned or self.model.busy or (self.keep_alive is None and self.model.loaded):
            return None
        return self.model.last_used + (self.keep_alive if self.keep_alive is not None else 0.0)

    def state(self) -> State:
        model, target = self.model, self.target
        effective = model.effective
        now = time.monotonic()
        expires = self.expires if model.loaded else None
        return State(
            target.name,
            tuple(sorted(model.served)),
            target.digest,
            model.engine,
            model.format,
            self.need.scheme,
            "/".join(dict.fromkeys(effective[key] for key in ("weights", "activations") if key in effective)),
            model.loaded,
            self.measured,
            self.counted,
            model.running,
            model.waiting,
            self.pinned,
            model.since,
            None if expires is None else time.time() + max(0.0, expires - now),
            model.loads,
            model.failures,
            model.restarts,
            _told(model.fault) if model.fault is not None and model.failing else "",
            effective,
            model.cache,
        )


def _told(fault: SlmopsError) -> str:
    """An engine's own words are for the log."""
    if isinstance(fault, EngineCrashed | EngineFailed):
        return f"{type(fault).__name__}: the log has more"
    return str(fault).splitlines()[0][:300]
