"""What the registry holds, for the page: every artifact with its last measurement, and which of them are on a front.

A front is drawn through artifacts of one source that were measured on one machine: only these can be compared. It is the
search's own (search.unbeaten), of divergence against size and against the time of a token.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmops import search
from slmops.registry import Registry, approval, described, exists, home
from slmops.registry import lineage as lineages
from slmops.registry.catalog import Row
from slmops.registry.described import Figure
from slmops.registry.lineage import Edge

MOST = 1000
"""Artifacts that are told of, the newest; of the rest how many there are."""
MOST_ENDS = 50
"""Of what one was made from, and of what was made from it."""
PLANES = ("size", "speed")
"""What divergence is set against."""


def holdings(root: Path | None = None) -> dict[str, Any]:
    """{"exists", "artifacts", "more", "alike"}, as JSON holds it. Where there is no registry none is made.

    more: artifacts that are not told of. alike: the divergence below which no difference counts. Raises CorruptInput.
    """
    root = root or home()
    if not exists(root):
        return {"exists": False, "artifacts": [], "more": 0, "alike": 0}
    with Registry.open(root) as registry:
        return _holdings(registry, registry.catalog.seen())


# Reading every measurement takes a while; the last answer holds until the index changes.
_LAST: dict[Path, tuple[str, dict[str, Any]]] = {}


def _holdings(registry: Registry, seen: str) -> dict[str, Any]:
    known = _LAST.get(registry.root)
    if known is not None and known[0] == seen:
        return known[1]
    rows = sorted(registry.rows(), key=lambda row: row.added, reverse=True)
    edges, called = lineages.edges(registry), {row.digest: ", ".join(row.tags) or row.name for row in rows}
    made_from, made_into = defaultdict[str, list[Edge]](list), defaultdict[str, list[Edge]](list)
    for edge in edges:
        made_from[edge.child].append(edge)
        made_into[edge.parent].append(edge)
    told = []
    for row in rows[:MOST]:
        digest, document = row.digest, _measured(registry, row.digest)
        origin, name = _origin(row, made_from)
        told.append(
            {
                **_row(row),
                "source": origin,
                "source_name": described.plain(called.get(origin) or name, 200),
                "made_from": [
                    _end(one.role, one.parent, called.get(one.parent) or one.label) for one in made_from[digest][:MOST_ENDS]
                ],
                "made_into": [_end(one.role, one.child, called.get(one.child, "")) for one in made_into[digest][:MOST_ENDS]],
                "machine": described.machine(document),
                **_figures(described.figures(document)),
            }
        )
    _fronts(told)
    found = {"exists": True, "artifacts": told, "more": len(rows) - len(told), "alike": search.ALIKE}
    _LAST.clear()
    _LAST[registry.root] = (seen, found)
    return found


def _measured(registry: Registry, digest: str) -> dict[str, Any]:
    """The last measurement of an artifact; empty where there is none."""
    held = [one for one, kind in registry.catalog.attachments(digest) if kind == approval.MEASURED]
    return registry.content(held[-1]) if held else {}


def _row(row: Row) -> dict[str, Any]:
    plain = functools.partial(described.plain, most=200)
    return {
        "digest": row.digest,
        "names": [plain(one) for one in row.tags],
        "name": plain(row.name),
        "format": plain(row.format),
        "scheme": plain(row.scheme),
        "family": plain(row.family),
        "bytes": row.bytes,
        "proven": bool(row.verified),
        "added": row.added,
        "damaged": bool(row.fault),
    }


def _figures(figures: Sequence[Figure]) -> dict[str, Any]:
    held = {one.place: {"value": one.value, "low": one.low, "high": one.high} for one in figures}
    return {"engine": figures[0].engine if figures else "", "measured": held}


def _end(role: str, digest: str, name: str) -> dict[str, str]:
    return {"role": described.plain(role, 50), "digest": digest, "name": described.plain(name, 200)}


def _origin(row: Row, made_from: Mapping[str, Sequence[Edge]]) -> tuple[str, str]:
    """What an artifact was made from in the end, and its name where it is no artifact here."""
    digest, name, passed = row.digest, described.plain(row.name, 200), set[str]()
    while digest not in passed:
        passed.add(digest)
        edge = next((one for one in made_from.get(digest, ()) if one.role == "source"), None)
        if edge is None:
            break
        digest, name = edge.parent, described.plain(edge.label, 200) or name
    return digest, name


def _fronts(told: Sequence[dict[str, Any]]) -> None:
    """Write into each artifact the planes on whose front it is."""
    groups = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for one in told:
        one["fronts"] = []
        groups[one["source"], one["machine"]].append(one)
    for alike in groups.values():
        for plane in PLANES:
            costs = [
                (search.cost("quality", _value(one, "quality.kl")), search.cost(plane, _cost(one, plane))) for one in alike
            ]
            for place in search.unbeaten(costs):
                alike[place]["fronts"].append(plane)


def _cost(one: Mapping[str, Any], plane: str) -> float | None:
    """Bytes, or seconds a token."""
    rate = _value(one, "speed.decode")
    return float(one["bytes"]) if plane == "size" else 1 / rate if rate else None


def _value(one: Mapping[str, Any], place: str) -> float | None:
    found = one["measured"].get(place)
    return found["value"] if found else None
