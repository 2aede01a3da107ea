"""Lineage: what an artifact was made from, and what was made from it; as a tree of text, or as DOT for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slmops.registry.registry import Registry


@dataclass(frozen=True)
class Edge:
    """`child` was made from `parent`, which was its `role` (source, calibration, ...)."""

    child: str
    role: str
    parent: str
    label: str
    """What the parent was called, where it is no artifact here."""


def edges(registry: Registry, digest: str | None = None) -> list[Edge]:
    """All edges, or those that an artifact can be reached by, up or down."""
    found = [Edge(*row) for row in registry.catalog.lineage()]
    if digest is None:
        return found
    up, down = {digest}, {digest}
    kept: list[Edge] = []
    for reached, here, there in ((up, "child", "parent"), (down, "parent", "child")):
        by_end: dict[str, list[Edge]] = {}
        for edge in found:
            by_end.setdefault(getattr(edge, here), []).append(edge)
        waiting = [digest]
        while waiting:
            for edge in by_end.get(waiting.pop(), ()):
                kept.append(edge)
                if (end := getattr(edge, there)) not in reached:
                    reached.add(end)
                    waiting.append(end)
    return list(dict.fromkeys(kept))


def names(registry: Registry) -> dict[str, str]:
    """Digest -> how an artifact is called: its tags, format and scheme."""
    return {
        row.digest: f"{', '.join(row.tags) or row.name or 'no name'} ({row.format}, {row.scheme}) {row.digest[7:19]}"
        for row in registry.rows()
    }


def text(registry: Registry, digest: str) -> str:
    """Ancestors above by indentation, then descendants; each line a step."""
    called, found = names(registry), edges(registry, digest)
    lines = [called.get(digest, digest)]
    lines += [f"  from {line}" for line in _tree(found, digest, called, up=True)]
    lines += [f"  made into {line}" for line in _tree(found, digest, called, up=False)]
    return "\n".join(lines)


def _tree(found: list[Edge], digest: str, called: dict[str, str], *, up: bool, path: tuple[str, ...] = ()) -> Iterator[str]:
    if len(path) > 50:  # manifests of strangers may say anything, but not in circles for ever
        return
    for edge in found:
        here, there = (edge.child, edge.parent) if up else (edge.parent, edge.child)
        if here != digest or there in path:
            continue
        said = called.get(there) or f"{edge.label or 'something outside'} ({there[:24]})"
        yield f"{edge.role}: {_plain(said)}"
        for line in _tree(found, there, called, up=up, path=(*path, digest)):
            yield f"  {line}"


def dot(registry: Registry, digest: str | None = None) -> str:
    """A graph in Graphviz's DOT: artifacts as boxes, what came from outside as ellipses."""
    called, found = names(registry), edges(registry, digest)
    shown = dict.fromkeys([*([digest] if digest else called), *(end for edge in found for end in (edge.parent, edge.child))])
    labels = {edge.parent: edge.label for edge in found}
    lines = ["digraph lineage {", "  rankdir=LR;"]
    for node in shown:
        inside = node in called
        label = called[node] if inside else f"{labels.get(node) or 'outside'} {node[:24]}"
        lines.append(f"  {_quoted(node)} [label={_quoted(label)}, shape={'box' if inside else 'ellipse'}];")
    lines += [f"  {_quoted(one.parent)} -> {_quoted(one.child)} [label={_quoted(one.role)}];" for one in found]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """Without characters that steer a terminal: labels come from manifests."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
