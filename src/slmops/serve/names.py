"""What the names in requests lead to, at the moment of the request: folders, the registry's artifacts, aliases.

A tag of the registry that moves is noticed by its index.json being another file: one stat a request.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slmops.core.errors import CorruptInput, SourceNotFound, UsageError
from slmops.engines import AS_IT_COMES, Options
from slmops.registry import Registry, references
from slmops.registry import index as layout
from slmops.registry.fastest import Fastest, fastest
from slmops.registry.references import Reference

MOST_KNOWN = 10_000
"""Names that are remembered; more are looked up anew."""
CANARY, STABLE = "canary", "stable"
T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A model of another server that speaks OpenAI's API."""

    url: str
    """What /chat/completions is put behind: https://host/v1."""
    model: str
    """As that server calls it."""
    key_env: str | None = None
    """The environment's variable with the key to send."""

    def __str__(self) -> str:
        return f"{self.url}#{self.model}" + (f" with {self.key_env}" if self.key_env else "")


@dataclass(frozen=True)
class Entry:
    """A model that is served, as a command or a configuration says it."""

    name: str
    """What requests call it; empty for what the registry has besides."""
    source: Path | Remote | str = ""
    """A folder or .gguf; another server's; or a reference of the registry, which is looked up with each request."""
    engine: str | None = None
    options: Options = AS_IT_COMES
    queue: int = 64
    pin: bool = False
    keep_alive: float | None = 600.0
    """Seconds without a request after which it is unloaded; None: never."""
    adapters: tuple[tuple[str, Path], ...] = ()
    """Name and folder of each low-rank adapter (LoRA) that is loaded with it, and served by that name (`adapted`)."""
    base: str = ""
    """Of such an adapter's entry, the name of the model: nothing else is loaded for it."""

    @property
    def adapted(self) -> tuple[Entry, ...]:
        """An entry for each of its adapters."""
        return tuple(dataclasses.replace(self, name=name, base=self.name, pin=False) for name, _ in self.adapters)


Key = tuple[str, str | None, Options, tuple[tuple[str, Path], ...]]
"""What is loaded once, however many names lead to it: which bytes, in which engine, opened how, and which adapters."""


@dataclass(frozen=True)
class Target:
    """What a name leads to now."""

    name: str
    """One for all ways to write it: metrics count under it."""
    place: str
    """The folder, the other server's address, or the digest."""
    digest: str
    """sha256:..., empty for a folder that is not in the registry."""
    release: str
    entry: Entry

    @property
    def key(self) -> Key:
        return self.place, self.entry.engine, self.entry.options, self.entry.adapters

    @property
    def model(self) -> str:
        """The name of what is loaded."""
        return self.entry.base or self.name


class Names:
    """Entries, aliases and the registry. From any thread."""

    def __init__(
        self,
        entries: Sequence[Entry],
        aliases: Mapping[str, str] | None = None,
        rest: Entry | None = None,
        root: Path | None = None,
    ) -> None:
        """rest: how what the registry has besides the entries is served; None: it is not. root: of the registry, by default
        home().

        Raises UsageError for two things of one name, or an alias of nothing.
        """
        self._rest, self._shelf = rest, _Shelf(root)
        self.change(entries, aliases or {})

    def change(self, entries: Sequence[Entry], aliases: Mapping[str, str]) -> None:
        """Serve these from now on. Raises UsageError: then nothing is changed."""
        entries = [one for each in entries for one in (each, *each.adapted)]
        named = [*(one.name for one in entries), *aliases]
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise UsageError(f"{twice} is the name of two things", "give one of them another: NAME=MODEL")
        plain = {one.name: one for one in entries}
        # Ollama's clients write home:latest where home was said, and the other way round.
        spelled = {parsed: one for one in entries if (parsed := references.parse(one.name)) is not None}
        for alias, meant in aliases.items():
            if meant not in plain and self._rest is None:
                raise UsageError(f"{alias} is an alias of {meant}, which is not served", f"one of: {', '.join(plain)}")
        self._entries, self._spelled, self._aliases = plain, spelled, dict(aliases)
        self._known: tuple[object, dict[str, Target]] = (None, {})

    @property
    def registry(self) -> bool:
        """Whether what the registry has besides is served."""
        return self._rest is not None

    @property
    def pinned(self) -> list[str]:
        return [one.name for one in self._entries.values() if one.pin]

    def listed(self) -> list[str]:
        """All names: those that were given, aliases, and the registry's tags where it is served."""
        given = [*self._entries, *self._aliases]
        if self._rest is None:
            return given
        return [*given, *(tag for tag in self._shelf.tags() if tag not in self._entries and tag not in self._aliases)]

    def known(self, name: str) -> Target | None:
        """What `find` found before, if nothing changed since; nothing that waits is asked."""
        seen, found = self._known
        target = found.get(name)
        if target is not None and isinstance(target.entry.source, str) and seen != self._shelf.seen():
            return None
        return target

    def find(self, name: str) -> Target:
        """Raises SourceNotFound naming those that there are."""
        if (target := self.known(name)) is not None:
            return target
        seen = self._shelf.seen()  # before it is looked up: what moves meanwhile is looked up again
        target = self._find(name)
        if self._known[0] != seen or len(self._known[1]) >= MOST_KNOWN:
            self._known = (seen, {})
        self._known[1][name] = target
        return target

    def _find(self, name: str) -> Target:
        meant = self._aliases.get(name, name)
        parsed = references.parse(meant)
        entry = self._entries.get(meant) or (self._spelled.get(parsed) if parsed is not None else None)
        called = name if name in self._aliases else entry.name if entry is not None else ""
        if entry is None:
            if self._rest is None or (parsed is None and references.SHORT.fullmatch(meant) is None):
                raise self._unknown(name)
            entry = self._rest
        if not isinstance(entry.source, str):
            return Target(called, str(entry.source), "", _release(called), entry)
        try:
            digest, reference = self._shelf.resolve(entry.source or meant)
        except (SourceNotFound, UsageError):
            if entry.source:
                raise  # it is served by name, and is not there (any more)
            raise self._unknown(name) from None
        return Target(called or reference, digest, digest, _release(called or reference), entry)

    def _unknown(self, name: str) -> SourceNotFound:
        listed = self.listed()
        known = ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")
        return SourceNotFound(
            f"no model {name[:100]!r} is served here", f"one of: {known}" if known else "none is served yet"
        )

    def open(self, target: Target) -> tuple[Path, Callable[[], None]]:
        """The folder to load from, and what to call when it is loaded no more: till then gc leaves it alone.

        Raises SourceNotFound, CorruptInput, PolicyRefused.
        """
        return self._shelf.lease(target.digest) if target.digest else (Path(target.place), lambda: None)

    def fastest(self, target: Target, engines: Sequence[str]) -> Fastest | None:
        """Of these engines, the one that was measured to be the fastest with it here; see registry/fastest.py."""
        if not target.digest or len(engines) < 2:
            return None
        return self._shelf.fastest(target.digest, target.entry.options.parallel, engines)

    def close(self) -> None:
        self._shelf.close()


def _release(name: str) -> str:
    """Canary where the name or its tag says so: rollouts compare the two."""
    return CANARY if CANARY in (name, name.rpartition(":")[2]) else STABLE


class _Shelf:
    """The registry, whose objects belong to a thread each: one answers names, one places and leases, which may read much."""

    def __init__(self, root: Path | None) -> None:
        from slmops.registry import home

        self._root = root or home()
        self._asked, self._leasing = _Clerk(self._root, "names"), _Clerk(self._root, "leases")
        self._listed: tuple[object, list[str]] = (None, [])

    def seen(self) -> object:
        """Another, whenever a tag has moved; None without a registry."""
        try:
            found = (self._root / layout.NAME).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def resolve(self, text: str) -> tuple[str, str]:
        """Digest, and the one name of this way to write it. Raises SourceNotFound, UsageError."""

        def ask(registry: Registry) -> tuple[str, str]:
            registry.refresh()
            digest = registry.resolve(text)
            if references.SHORT.fullmatch(text) is not None:
                return digest, digest[:19]
            named = references.named(text)
            if registry.catalog.tagged(named.name, named.tag) is None:  # its only tag was meant
                named = Reference(named.name, registry.catalog.tags(named.name)[0])
            return digest, str(named)

        return self._asked.do(ask)

    def tags(self) -> list[str]:
        """name:tag of everything."""
        seen = self.seen()
        if seen is None:
            return []
        if self._listed[0] != seen:

            def ask(registry: Registry) -> list[str]:
                registry.refresh()
                return [tag for row in registry.rows() if not row.fault for tag in row.tags]

            self._listed = (seen, self._asked.do(ask))
        return self._listed[1]

    def lease(self, digest: str) -> tuple[Path, Callable[[], None]]:
        held = contextlib.ExitStack()
        folder = self._leasing.do(lambda registry: held.enter_context(registry.lease(digest, "served")))

        def release() -> None:
            with contextlib.suppress(RuntimeError, CorruptInput):  # closed; the lease ends with the process in any case
                self._leasing.do(lambda _: held.close())

        return folder, release

    def fastest(self, digest: str, at_once: int, engines: Sequence[str]) -> Fastest | None:
        return self._leasing.do(lambda registry: fastest(registry, digest, at_once, engines))

    def close(self) -> None:
        self._asked.close()
        self._leasing.close()


class _Clerk:
    """A registry and the thread that alone uses it."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._pool = root, ThreadPoolExecutor(1, thread_name_prefix=name)
        self._registry: Registry | None = None

    def do(self, ask: Callable[[Registry], T]) -> T:
        return self._pool.submit(lambda: ask(self._opened())).result()

    def _opened(self) -> Registry:
        from slmops.registry import exists

        if self._registry is None:
            if not exists(self._root):
                raise SourceNotFound(f"there is no registry at {self._root}", "slmops convert SRC --name NAME begins one")
            self._registry = Registry.open(self._root)
        return self._registry

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            if self._registry is not None:
                self._pool.submit(self._registry.close).result()
        self._pool.shutdown()
