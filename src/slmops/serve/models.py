"""The models of a server: loaded when first asked for, kept while they are used, unloaded when their memory is needed.

A model is loaded once for all names that lead to it (names.Key). When a name's target moves, requests in flight finish where
they are; new ones go to the new version, at once where the old one is not loaded or both do not fit, and else as soon as the
new one is loaded. What a worker takes is predicted before it is started (room.need) and measured from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from slmops import run
from slmops.core import store, units
from slmops.core.errors import Busy, SlmopsError, Unsupported
from slmops.serve import adapters, room
from slmops.serve.backend import Backend
from slmops.serve.held import Held, State
from slmops.serve.model import Model
from slmops.serve.names import Entry, Key, Names, Remote, Target

WAIT = 30.0
"""Seconds that a model may wait for others to be idle, so that they can be unloaded for it."""
LOOK, TICK = 0.05, 1.0
"""Seconds between looks at whether they are, and between looks at what has not been used."""
MOST_MEASURED = 1000
"""Models whose measured memory is remembered after they were unloaded."""

log = logging.getLogger("slmops.models")


class Models:
    """The models of a server, by name. From any thread; what may wait says so."""

    def __init__(self, names: Names, budget: int | None = None, *, warm: bool = False) -> None:
        """budget: bytes that models may take together; by default a share of what is free (room.budget)."""
        self._names, self._warm = names, warm
        self.budget = budget if budget is not None else room.budget()
        self._held: dict[Key, Held] = {}
        self._leaving: set[Held] = set()
        self._current: dict[str, Held] = {}
        """What each name was last answered by."""
        self._making = tuple(threading.Lock() for _ in range(64))
        self._measured: dict[Key, int] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self.draining = False
        self.began = time.time()
        self.counted: Counter[tuple[str, str, str]] = Counter()
        """(what, name, why) -> how often: evictions; and of models that are no more loads, failures, restarts."""
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    # Asking

    @property
    def names(self) -> list[str]:
        """All that may be asked for."""
        return self._names.listed()

    @property
    def registry(self) -> bool:
        """Whether what the registry has is served by its names."""
        return self._names.registry

    def find(self, name: str) -> Target:
        """What a name leads to, loaded or not. May read the registry. Raises SourceNotFound."""
        return self._names.find(name)

    def at_hand(self, name: str) -> Backend | None:
        """The model of a name where that is known without waiting."""
        target = self._names.known(name)
        return self._pick(name, target) if target is not None else None

    def get(self, name: str) -> Backend:
        """The model of a name; its worker starts with its first request. Reads files. Raises SourceNotFound naming those
        that there are, and what opening the artifact raises."""
        if self._ending.is_set():
            raise Busy("the server is about to end", "ask again when it is back", cause="draining")
        target = self._names.find(name)
        if (model := self._pick(name, target)) is not None:
            return model
        held = self._make(target)
        return self._pick(name, target) or held.model

    def _pick(self, name: str, target: Target) -> Backend | None:
        """What answers to a name now; None where it has to be made."""
        with self._lock:
            held, current = self._held.get(target.key), self._current.get(name)
            if held is None or held.model.closing:
                return None
            if current is not held:
                if current is not None and self._stays(current, held):
                    if not held.model.failing:
                        held.beside = current
                        self._load(held)
                    return current.model
                self._current[name] = held
                held.model.served[name] = held.served(target)
                self._pin()
            return held.model

    def _stays(self, current: Held, coming: Held) -> bool:
        """Whether a name's old version answers a while longer: until the new one is loaded, if both fit."""
        able = current.model.loaded and not current.model.closing
        return able and not coming.model.loaded and not coming.crowded

    def _make(self, target: Target) -> Held:
        # One of all that ask at once makes it; what is opened may be read and hashed for long, and others go on meanwhile.
        with self._making[hash(target.key) % len(self._making)]:
            with self._lock:
                held = self._held.get(target.key)
                if held is not None and not held.model.closing:
                    return held
            source = target.entry.source
            held = self._remote(source, target) if isinstance(source, Remote) else self._opened(target)
            with self._lock:
                self._held[target.key] = held
            return held

    def _remote(self, source: Remote, target: Target) -> Held:
        from slmops.serve.upstream import Upstream  # most servers have none, and start the sooner

        upstream = Upstream(target.name, source, target.entry.queue)
        return Held(upstream, target, room.Need("", 0, 0, 0, 0), lambda: None, target.entry.keep_alive)

    def _opened(self, target: Target) -> Held:
        entry = target.entry
        target = dataclasses.replace(target, name=target.model)
        with contextlib.ExitStack() as until_unloaded:
            folder, release = self._names.open(target)
            until_unloaded.callback(release)
            artifact = run.Artifact.open(folder)
            written, options = [], entry.options
            if entry.adapters:
                scratch = until_unloaded.enter_context(store.scratch("adapters"))
                written = adapters.write(artifact, [one for _, one in entry.adapters], scratch)
                options = dataclasses.replace(options, adapters=tuple(str(one.file) for one in written))
            engine = entry.engine
            if engine is None and (found := self._names.fastest(target, run.together(artifact.format))) is not None:
                engine = found.engine
                log.info("chosen", extra={"model": target.name, "engine": engine, "why": found.why})
            model = Model(target.name, artifact, engine, options, entry.queue, warm=self._warm)
            need = room.need(artifact, model.engine, model.options)
            release = until_unloaded.pop_all().close
        digests = {name: one.digest for (name, _), one in zip(entry.adapters, written, strict=True)}
        held = Held(model, target, need, release, entry.keep_alive, digests)
        # Measured at once: one that dies before the next tick was loaded all the same, and the log says so.
        model.room, model.ready = functools.partial(self._room, held), held.measure
        return held

    # Loading and unloading by word

    def load(self, name: str) -> bool:
        """Load it and wait until it is; whether it was not before. Raises what `get` and opening raise."""
        while True:
            self.get(name)
            held = self._of(name)
            if held is None:
                continue
            if held.model.loaded:
                return False
            held.model.load()
            self.get(name)  # a name whose target moved goes to the new version from now on
            return True

    def _load(self, held: Held) -> None:
        """The same without waiting; what is wrong is told by the model itself."""

        def load() -> None:
            try:
                with contextlib.suppress(SlmopsError):
                    held.model.load()
            finally:
                held.loading = False

        with self._lock:
            if not held.loading:
                held.loading = True
                threading.Thread(target=load, name=f"load {held.target.name}", daemon=True).start()

    def unload(self, name: str, wait: float = 60.0) -> bool:
        """Unload it once what is in flight has ended, which it is waited for; whether it was loaded. Requests that come
        meanwhile load it anew. Raises SourceNotFound."""
        key = self._names.find(name).key
        with self._lock:
            held = self._held.get(key)
            if held is None or held.model.closing:
                return False
            was = held.model.loaded
            self._part(held)
        until = time.monotonic() + wait
        while not held.model.close_if_idle() and time.monotonic() < until:
            time.sleep(LOOK)
        self._end(held, "asked", was)
        return was

    def keep(self, name: str, seconds: float | None) -> None:
        """How long it is kept after its last request, from now on; None: until it is unloaded or its memory is needed.
        Nothing where it is not loaded. 0 unloads it when what is in flight has ended. Raises SourceNotFound."""
        if (held := self._of(name)) is not None:
            held.keep_alive = seconds

    def _of(self, name: str) -> Held | None:
        key = self._names.find(name).key  # may read the registry: not under the lock that each request takes
        with self._lock:
            return self._held.get(key)

    # Memory

    def _room(self, held: Held) -> None:
        """Wait until there is memory for a model, unloading others that nobody uses. Raises Unsupported, Busy."""
        key, until = held.target.key, time.monotonic() + WAIT
        needed = self._measured.get(key) or held.need.total
        if needed > self.budget:
            raise Unsupported(
                f"{held.target.name} needs {held.need}, and models may take {units.size(self.budget)} here",
                "serve it with a smaller --context or scheme, or raise --memory",
            )
        while True:
            with self._lock:
                others = [one for one in (*self._held.values(), *self._leaving) if one is not held]
                for one in others:
                    if one.model.loaded and one.pid is None:
                        one.measure()
                missing = needed + sum(one.counted for one in others) - self.budget
                if missing <= 0:
                    held.reserved = needed
                    return
                victim = self._victim(held, missing)
                if victim is not None:
                    self._part(victim)
                elif held.beside is not None:
                    held.beside, held.crowded = None, True
            if victim is not None:
                self._end(victim, "memory", True)
            elif time.monotonic() > until or held.model.closing:
                held.reserved = 0
                busy = ", ".join(one.target.name for one in others if one.model.loaded)[:200]
                said = f"{units.size(needed)} for {held.target.name} are taken by models at work or pinned ({busy})"
                raise Busy(said, "try again in a moment", 5.0, cause="memory")
            else:
                time.sleep(LOOK)

    def _victim(self, coming: Held, missing: int) -> Held | None:
        """The least recently used of those that can be unloaded, now closed to requests; None where all of them would not
        be enough."""
        idle = [
            one
            for one in self._held.values()
            if one is not coming and one is not coming.beside and one.model.loaded and one.spare
        ]
        if sum(one.counted for one in idle) < missing:
            return None
        for one in sorted(idle, key=lambda each: each.model.last_used):
            if one.model.close_if_idle():
                return one
        return None

    def _part(self, held: Held) -> None:
        """No name leads to it any more. Under the lock."""
        if self._held.get(held.target.key) is held:
            del self._held[held.target.key]
        for name in [name for name, one in self._current.items() if one is held]:
            del self._current[name]
        self._leaving.add(held)

    def _end(self, held: Held, why: str, was: bool) -> None:
        """Wait for its worker's end."""
        try:
            held.model.close()
            held.release()
        finally:
            with self._lock:
                self._leaving.discard(held)
                if held.expected and len(self._measured) < MOST_MEASURED:
                    self._measured[held.target.key] = held.expected
                for what in ("loads", "failures", "restarts"):
                    self.counted[what, held.target.name, ""] += getattr(held.model, what)
                if was:
                    self.counted["evictions", held.target.name, why] += 1
        if was:
            log.info("unloaded", extra={"model": held.target.name, "digest": held.target.digest, "why": why})

    # Keeping

    def start(self) -> None:
        """Load what is pinned, without waiting for it."""
        for name in self._names.pinned:
            try:
                self.get(name)
                held = self._of(name)
                if held is not None and not held.model.loaded and not held.model.failing:
                    self._load(held)
            except SlmopsError as fault:
                log.error("cannot be loaded", extra={"model": name, "fault": str(fault)})

    def missing(self) -> list[str]:
        """Pinned names that nothing loaded answers to yet."""
        with self._lock:
            return [
                name for name in self._names.pinned if (held := self._current.get(name)) is None or not held.model.loaded
            ]

    def _pin(self) -> None:
        """Under the lock: what pinned names lead to is pinned, and nothing else."""
        pinned = {id(self._current[name]) for name in self._names.pinned if name in self._current}
        for held in self._held.values():
            held.pinned = id(held) in pinned

    def _keep(self) -> None:
        """Unload what has not been used, measure what is loaded, load what is pinned."""
        while not self._ending.wait(TICK):
            try:
                self._tick()
            except Exception:  # the next tick may find it mended
                log.exception("keeping models")

    def _tick(self) -> None:
        if self._names.pinned:
            self.start()
        with self._lock:
            held = list(self._held.values())
            self._pin()
        for one in held:
            one.measure()
        over = sum(one.counted for one in held) - self.budget
        now = time.monotonic()
        for one in sorted(held, key=lambda each: each.model.last_used):
            late = one.expires is not None and now >= one.expires
            if late or (over > 0 and one.model.loaded and one.spare):
                with self._lock:
                    if one.model.failing or not one.model.close_if_idle():
                        continue
                    self._part(one)
                over -= one.counted
                self._end(one, "idle" if late else "memory", one.model.loaded)

    def reload(self, entries: Sequence[Entry], aliases: Mapping[str, str]) -> None:
        """Serve these from now on; what is loaded and no longer asked for goes with its keep-alive. Raises UsageError."""
        self._names.change(entries, aliases)
        with self._lock:
            self._pin()

    def states(self) -> list[State]:
        """Of all that are loaded, or were lately asked for."""
        with self._lock:
            held = [*self._held.values(), *self._leaving]
        for one in held:
            if one.pid is None and one.model.loaded:
                one.measure()
        return [one.state() for one in held]

    def close(self) -> None:
        """Finish what is being computed, and end all workers."""
        self.draining = True
        self._ending.set()
        with self._lock:
            held = list(self._held.values())
            for one in held:
                self._part(one)
        ends = [threading.Thread(target=self._end, args=(one, "closing", False)) for one in held]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        self._names.close()
