"""Sync: what differs between this registry and another, and both ways of making it the same.

A remote is `oci:HOST[/PREFIX]`; name:tag here is PREFIX/name:tag there. Each tag is compared three ways, with what both
sides had when they last agreed (remembered.py):

    moved on one side only      it goes to the other
    moved on both               a conflict, which is said and left, unless one side is preferred
    gone on one side only       said; removed on the other only when asked to
    the same, other documents   what is attached (measurements, signatures) goes both ways

Each tag is done by itself and remembered at once, so that what breaks off goes on with the next sync.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slmops.core.errors import OutputExists, SlmopsError, SourceNotFound, Unreachable, Unsupported, UsageError
from slmops.core.watch import Watch
from slmops.registry import documents, fetching, index, push, references, remembered
from slmops.registry._distribution import HOST, Place, Repository
from slmops.registry.index import Index
from slmops.registry.references import Reference
from slmops.registry.registry import Registry
from slmops.registry.remotes import Wanted, oci

REMOTE = re.compile(rf"oci:(?://)?({HOST})(?:/({references.NAME.pattern}))?/?", re.ASCII)
Side = Literal["local", "remote"]
Action = Literal["push", "pull", "remove there", "remove here", "conflict"]


@dataclass(frozen=True)
class Remote:
    """A registry across the network, or the part of it below a prefix."""

    host: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"oci:{self.host}" + (f"/{self.prefix}" if self.prefix else "")

    def place(self, name: str) -> Place:
        return Place(self.host, f"{self.prefix}/{name}" if self.prefix else name)


@dataclass(frozen=True)
class Difference:
    """A tag that is not the same on both sides; digests are None where there is none."""

    name: Reference
    action: Action
    here: str | None
    there: str | None
    agreed: str | None
    documents: bool = False
    """The artifact is the same; what is attached to it is not."""


@dataclass(frozen=True)
class Outcome:
    """What became of a difference."""

    difference: Difference
    done: bool
    said: str = ""
    """Why it is not done."""
    moved: int = 0
    """Bytes of blobs that went."""
    fault: SlmopsError | None = None


@dataclass(frozen=True)
class Synced:
    """All that differed, in order of name; `same`: tags that did not."""

    outcomes: tuple[Outcome, ...]
    same: int
    listed: bool
    """Whether the remote lists its repositories; where not, only names that are known here were compared."""
    untold: tuple[tuple[str, SlmopsError], ...] = ()
    """Names whose tags the remote does not tell, and why."""
    unreachable: Unreachable | None = None

    @property
    def fault(self) -> SlmopsError | None:
        """What to end with: the network first, then what failed, then conflicts."""
        conflicts = [one.difference for one in self.outcomes if not one.done and one.difference.action == "conflict"]
        conflict = None
        if conflicts:
            cure = "look at both, then sync those names with --prefer local or --prefer remote"
            conflict = OutputExists(f"{len(conflicts)} tags moved on both sides: {conflicts[0].name} for one", cure)
        faults = [*(fault for _, fault in self.untold), *(one.fault for one in self.outcomes)]
        failed = next((one for one in faults if one is not None), None)
        return self.unreachable or failed or conflict


@dataclass(frozen=True)
class Options:
    """How a sync goes about it."""

    ways: frozenset[Side] = frozenset({"local", "remote"})
    """Sides that may be changed."""
    prefer: Side | None = None
    """Whose tag wins where both moved."""
    delete: bool = False
    """Remove on one side what was removed on the other."""
    dry_run: bool = False
    plain_http: bool = False
    jobs: int = 4


def parse(text: str) -> Remote:
    """Raises UsageError."""
    match = REMOTE.fullmatch(text) if len(text) <= 500 else None
    if match is None:
        raise UsageError(f"{text[:200]!r} is no remote to sync with", "it is oci:HOST[:PORT][/PREFIX]")
    return Remote(match[1].lower(), match[2] or "")


def sync(registry: Registry, remote: Remote, only: Sequence[str], options: Options, watch: Watch | None = None) -> Synced:
    """Compare and, unless it is a dry run, carry out what the options allow.

    only: names, name:tag, or patterns of either (fnmatch); none means all on both sides. What fails is told with its tag,
    and does not keep the rest. Where the remote is out of reach, what waits is told from memory.
    """
    return _Run(registry, remote, only, options, watch or Watch()).run()


@dataclass(frozen=True)
class Seen:
    """A tag of the remote; `documents`: what is attached to it there, where that was asked."""

    digest: str
    documents: frozenset[str] | None = None


class Looked(NamedTuple):
    """What the remote has, and the names whose tags it does not tell."""

    tags: dict[Reference, Seen]
    faults: dict[str, SlmopsError]


class _Run:
    def __init__(self, registry: Registry, remote: Remote, only: Sequence[str], options: Options, watch: Watch) -> None:
        self.registry, self.remote, self.only, self.options, self.watch = registry, remote, only, options, watch
        self.agreed = {
            name: digest
            for text, digest in remembered.read(registry.root).agreed.get(str(remote), {}).items()
            if (name := references.parse(text)) is not None
        }
        self.here = index.read(registry.root).tags

    def run(self) -> Synced:
        with self._open("any") as probe:
            try:
                probe.http.request("GET", probe.root, expect=(200, 401, 403, 404), tries=2)
                listed = probe.names()
                seen = self._look(listed)
            except Unreachable as fault:
                # Said from memory: what was there when both agreed.
                from_memory = {name: Seen(digest) for name, digest in self.agreed.items()}
                waiting = [Outcome(one, False, "waits") for one in self._differences(from_memory)]
                return Synced(tuple(waiting), 0, False, unreachable=fault)
        found = self._differences(seen.tags, seen.faults)
        differ = {one.name for one in found}
        every = {one for one in (*self.here, *seen.tags, *self.agreed) if self._asked(one) and one.name not in seen.faults}
        self._remember({name: self.here.get(name) for name in every - differ})
        outcomes: list[Outcome] = []
        broken: Unreachable | None = None
        for one in found:
            outcome = Outcome(one, False, "waits") if broken else self._outcome(one)
            broken = broken or (outcome.fault if isinstance(outcome.fault, Unreachable) else None)
            outcomes.append(outcome)
        absent = [one for one in self.only if not any(_fits(name, one) for name in every) and one not in seen.faults]
        untold: list[tuple[str, SlmopsError]] = list(seen.faults.items())
        untold += [(one, SourceNotFound("neither side has it", "slmops models ls shows what is here")) for one in absent]
        same = len((every - differ) & self.here.keys())
        return Synced(tuple(outcomes), same, listed is not None, tuple(untold), broken)

    def _open(self, name: str) -> Repository:
        return Repository(self.remote.place(name), plain_http=self.options.plain_http)

    def _asked(self, name: Reference) -> bool:
        return not self.only or any(_fits(name, one) for one in self.only)

    def _look(self, listed: list[str] | None) -> Looked:
        """All tags of the remote that are asked for, several repositories at a time."""
        start = f"{self.remote.prefix}/" if self.remote.prefix else ""
        names = {one.name for one in (*self.here, *self.agreed)} | {one.partition(":")[0] for one in self.only}
        names |= {one.removeprefix(start) for one in listed or () if one.startswith(start)}
        names = {one for one in names if references.parse(one) and self._asked_of(one)}

        def look(name: str) -> dict[Reference, Seen] | SlmopsError:
            found = {}
            try:
                with self._open(name) as there:
                    for tag in there.tags():
                        whole = Reference(name, tag)
                        if self._asked(whole) and (digest := there.find(tag)) is not None:
                            # What is attached matters where the artifact is the same.
                            same = self.here.get(whole) == digest
                            found[whole] = Seen(digest, _documents(there, digest) if same else None)
            except Unreachable:
                raise
            except SlmopsError as fault:
                return fault
            return found

        looked = Looked({}, {})
        pool = ThreadPoolExecutor(max(1, self.options.jobs))
        try:
            for name, found in zip(sorted(names), pool.map(look, sorted(names)), strict=True):
                if isinstance(found, SlmopsError):
                    looked.faults[name] = found
                else:
                    looked.tags.update(found)
        finally:  # where the network is gone, the rest is not waited for
            pool.shutdown(cancel_futures=True)
        return looked

    def _asked_of(self, name: str) -> bool:
        return not self.only or any(fnmatch.fnmatchcase(name, one.partition(":")[0]) for one in self.only)

    def _differences(self, there: dict[Reference, Seen], faults: Collection[str] = ()) -> list[Difference]:
        found = []
        every = {*self.here, *self.agreed, *there}
        for name in sorted((one for one in every if self._asked(one) and one.name not in faults), key=str):
            here, agreed, seen = self.here.get(name), self.agreed.get(name), there.get(name)
            far = seen.digest if seen is not None else None
            if here != far:
                found.append(Difference(name, _decided(here, far, agreed, self.options.prefer), here, far, agreed))
            elif here is not None and seen is not None and seen.documents is not None:
                mine = {one for one, kind in self.registry.catalog.attachments(here) if kind not in oci.HERE}
                ways: list[Action] = ["push"] if mine - seen.documents else []
                ways += ["pull"] if seen.documents - mine else []
                found += [Difference(name, way, here, far, agreed, documents=True) for way in ways]
        return found

    def _outcome(self, one: Difference) -> Outcome:
        """Carry it out, if that is allowed."""
        changes: Side = "remote" if one.action in ("push", "remove there") else "local"
        if one.action == "conflict":
            return Outcome(one, False, "moved on both sides")
        if changes not in self.options.ways:
            return Outcome(one, False, f"would change the {changes} side")
        if one.action.startswith("remove") and not self.options.delete:
            gone = "here" if one.here is None else "there"
            back = "models push" if one.there is None else "models pull"
            return Outcome(one, False, f"removed {gone}: --delete removes it on the other side too, {back} brings it back")
        if self.options.dry_run:
            return Outcome(one, False, "dry run")
        try:
            with self._open(one.name.name) as there:
                moved = {
                    "push": self._push,
                    "pull": self._pull,
                    "remove there": self._remove_there,
                    "remove here": self._remove_here,
                }[one.action](one, there)
        except SlmopsError as fault:
            # Images and packed models are others' business.
            left = one.action == "pull" and isinstance(fault, Unsupported)
            return Outcome(one, False, str(fault), fault=None if left else fault)
        self._remember({one.name: one.there if one.action in ("pull", "remove here") else one.here})
        return Outcome(one, True, moved=moved)

    def _push(self, one: Difference, there: Repository) -> int:
        assert one.here is not None
        over = [one.there] if one.there is not None else []
        self.watch.say(f"{one.name} -> {there.place}")
        done = push.push(self.registry, one.here, there, one.name.tag, over=over, jobs=self.options.jobs, watch=self.watch)
        return done.sent

    def _pull(self, one: Difference, there: Repository) -> int:
        assert one.there is not None
        self.registry.policy.admit(oci.origin(str(there.place)))
        self.watch.say(f"{one.name} <- {there.place}")
        wanted = Wanted(jobs=self.options.jobs, most_bytes=self.registry.policy.most_bytes)
        with contextlib.ExitStack() as stack:
            with self.registry.writing():  # it is without a name for a moment
                fetching.reserve(self.registry, one.there, stack)
            taken = oci.bring(self.registry, there, one.there, wanted, self.watch)
            documents.write(self.registry, one.there)
            self._move_here(one, one.there)
        return taken.new

    def _remove_there(self, one: Difference, there: Repository) -> int:
        if there.find(one.name.tag) != one.there:
            raise OutputExists(f"{there.place}:{one.name.tag} moved meanwhile", "sync again")
        if not there.untag(one.name.tag):
            fault = f"{there.place} removes no tags, and {one.name.tag} shares its artifact with others"
            raise Unsupported(fault, "remove it with the registry's own tools")
        return 0

    def _remove_here(self, one: Difference, there: Repository) -> int:
        self._move_here(one, None)
        return 0

    def _move_here(self, one: Difference, digest: str | None) -> None:
        """Move or remove a tag that is still what it was when it was compared."""

        def edit(held: Index) -> None:
            if held.tags.get(one.name) not in (one.here, digest):
                raise OutputExists(f"{one.name} moved meanwhile", "sync again")
            held.tags.pop(one.name, None)
            if digest is not None:
                if digest not in held.entries:
                    raise SourceNotFound(f"the registry has no artifact {digest}", "it was removed meanwhile: sync again")
                held.tags[one.name] = digest

        self.registry.change(edit)
        if digest is None and one.here is not None:
            with contextlib.suppress(OSError):
                self.registry.blobs.touch(one.here)  # its grace begins now

    def _remember(self, moved: dict[Reference, str | None]) -> None:
        def edit(held: remembered.Remembered) -> None:
            agreed = held.agreed.setdefault(str(self.remote), {})
            for name, digest in moved.items():
                agreed.pop(str(name), None)
                if digest is not None:
                    agreed[str(name)] = digest

        if not self.options.dry_run:
            remembered.change(self.registry.root, edit)


def _fits(name: Reference, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in (name.name, str(name)))


def _documents(there: Repository, digest: str) -> frozenset[str]:
    """Digests of what is attached to an artifact there, of the kinds that travel."""
    return frozenset(one.blob.digest for one in there.referrers(digest) if oci.taken(one.artifact_type))


def _decided(here: str | None, there: str | None, agreed: str | None, prefer: Side | None) -> Action:
    """What a tag that differs needs."""
    moved_here, moved_there = here != agreed, there != agreed
    if moved_here and moved_there and prefer is None:
        return "conflict"
    if moved_here and (not moved_there or prefer == "local"):
        return "push" if here is not None else "remove there"
    return "pull" if there is not None else "remove here"
