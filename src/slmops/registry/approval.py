"""Approvals: who let an artifact into production, when, and on which figures. A guarded tag moves onto an approved one only.

An approval is an attachment: {by, at, note, measurements [digests], gates [{gate, passed, blocks, said}]}. Its gates are for
people; what counts are the verdicts in the measurements that it names, read again each time a tag moves. Approvals and gates
that passed count only from here, or from where approval.sources says: they are texts that anybody could write.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from slmops.core.errors import SlmopsError, UsageError
from slmops.registry import manifest
from slmops.registry.index import Index
from slmops.registry.policy import HERE, matches
from slmops.registry.references import Reference

if TYPE_CHECKING:
    from slmops.registry.registry import Registry

KIND, MEASURED = "approval", "measurement"
MOST_TEXT = 2000
MOST_GATES = 400
"""That are read of one measurement."""


@dataclass(frozen=True)
class Gate:
    """What a measurement says of a gate (measure/gates.Verdict)."""

    gate: str
    passed: bool | None
    blocks: bool
    said: str


def approve(registry: Registry, digest: str, by: str, note: str = "") -> tuple[str, list[Gate]]:
    """Record an approval on what was measured so far; its digest, and the gates it stands on.

    Raises PolicyRefused where `by` may not, or a gate has not passed.
    """
    for text, least in ((by, 1), (note, 0)):
        if not least <= len(text.strip()) <= MOST_TEXT or not text.replace("\n", " ").isprintable():
            raise UsageError(f"{text[:50]!r} cannot be recorded", f"a printable text of at most {MOST_TEXT} letters")
    policy = registry.policy
    if policy.approval.by and by not in policy.approval.by:
        raise policy.refused("approval.by", f"{by!r} may not approve", f"one of: {', '.join(policy.approval.by)}")
    origins = {one: registry.catalog.origin(one) for one, kind in registry.catalog.attachments(digest) if kind == MEASURED}
    found = gates(registry, origins, digest)
    if failed := lacking(policy.approval.gates, found):
        cure = "slmops measure --attach, or optimize --name, measures it"
        raise policy.refused("approval.gates", f"not passed: {'; '.join(failed)}", cure)
    document = {
        "by": by,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "note": note,
        "measurements": list(origins),
        "gates": [asdict(one) for one in found],
    }
    return registry.attach(digest, KIND, document), found


def gates(registry: Registry, measurements: Mapping[str, str], subject: str) -> list[Gate]:
    """The verdicts in measurements (digest -> origin) of an artifact; of a gate that was asked twice, the last.

    Of one from elsewhere that is not believed, only what did not pass. Measurements of other artifacts are left out.
    """
    found: dict[str, Gate] = {}
    for one, origin in measurements.items():
        held = registry.manifest(one)
        if held.subject != subject or manifest.kind_attached(held.artifact_type) != MEASURED:
            continue
        said = registry.content(one).get("verdicts")
        for verdict in said[:MOST_GATES] if isinstance(said, list) else ():
            if isinstance(verdict, dict):
                passed = verdict.get("passed")
                gate = Gate(
                    str(verdict.get("gate"))[:MOST_TEXT],
                    passed if isinstance(passed, bool) else None,
                    verdict.get("blocks") is not False,
                    str(verdict.get("said", ""))[:MOST_TEXT],
                )
                if gate.passed is not True or believed(registry, origin):
                    found[gate.gate] = gate
    return list(found.values())


def lacking(wanted: Iterable[str], found: Iterable[Gate]) -> list[str]:
    """Which of the wanted gates have not passed; without any, which of those that block."""
    by_name = {one.gate: one for one in found}
    if names := list(wanted):
        return [f"{name} (not measured)" if name not in by_name else f"{name}: {by_name[name].said}"
                for name in names if name not in by_name or by_name[name].passed is not True]  # fmt: skip
    return [f"{one.gate}: {one.said}" for one in by_name.values() if one.blocks and one.passed is not True]


def elsewhere(origin: str) -> str:
    """Why approvals from there do not count."""
    return f"those given elsewhere ({origin}) do not count, for approval.sources does not name that"


def require(registry: Registry, held: Index, digest: str, name: Reference, besides: str = "") -> None:
    """Raises PolicyRefused unless an approval of the artifact counts. besides: why others do not that are not here."""
    policy, refusals = registry.policy, [besides] if besides else []
    for attached, document in _approvals(registry, held, digest):
        by, origin = document.get("by"), held.origin(attached)
        named = document.get("measurements")
        listed = named if isinstance(named, list) else []
        known = {one: held.origin(one) for one in listed if isinstance(one, str) and one in held.entries}
        if not believed(registry, origin):
            refusals.append(elsewhere(origin))
        elif not isinstance(by, str) or not by.strip() or (policy.approval.by and by not in policy.approval.by):
            refusals.append(f"{by!r} may not approve")
        elif failed := lacking(policy.approval.gates, gates(registry, known, digest)):
            refusals.append(f"that of {by!r} stands on gates that have not passed: {'; '.join(failed)}")
        else:
            return
    said = "; ".join(refusals) or "nobody has approved it"
    cure = f"slmops models approve {digest[:19]} --by WHO"
    raise policy.refused("approval.tags", f"{name} moves only onto an approved artifact: {said[:1000]}", cure)


def believed(registry: Registry, origin: str) -> bool:
    """Whether approvals and passed gates from there count."""
    return origin == HERE or matches(origin, registry.policy.approval.sources)


def _approvals(registry: Registry, held: Index, digest: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(attachment, document) of the approvals in an index, those that come with this change too."""
    media = manifest.media_of(KIND)
    listed = [one for one, kind in registry.catalog.attachments(digest) if kind == KIND and one in held.entries]
    listed += [one for one in held.entries.keys() - registry.catalog.known() if held.entries[one]["artifactType"] == media]
    for one in listed:
        with contextlib.suppress(SlmopsError):  # what cannot be read approves nothing
            if registry.manifest(one).subject == digest:
                yield one, registry.content(one)
