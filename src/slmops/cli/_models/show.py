"""slmops models show: say everything of one: files, licence, figures, gates, signatures, approvals."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.registry import Registry
    from slmops.registry.described import Signature

HELP = "say everything of one: files, licence, figures, gates, signatures, approvals"
EXAMPLE = "slmops models show home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text
    from slmops.registry import Registry, described

    with Registry.open() as registry:
        digest = registry.resolve(arguments.reference)
        one = described.describe(registry, digest)
        found = one.found
        row = next(row for row in registry.rows() if row.digest == digest)
        attached = [
            {"digest": each, "kind": kind, **_content(registry, each)} for each, kind in registry.catalog.attachments(digest)
        ]
        facts = {
            **row._asdict(),
            "licence": one.licence,
            "origin": one.origin,
            "config": one.config,
            "annotations": dict(found.annotations),
            "files": [{"path": each.path, "kind": each.kind, **dataclasses.asdict(each.blob)} for each in found.layers],
            "inputs": [dataclasses.asdict(each) for each in one.inputs],
            "figures": [dataclasses.asdict(each) for each in one.figures],
            "gates": [dataclasses.asdict(each) for each in one.gates],
            "signatures": [dataclasses.asdict(each) for each in one.signatures],
            "approvals": list(one.approvals),
            "attachments": attached,
            "leases": [dataclasses.asdict(each) for each in registry.catalog.leases() if each.digest == digest],
        }
    pairs = [
        ("digest", digest),
        ("names", ", ".join(row.tags)),
        ("model", f"{row.name} ({row.family})"),
        ("format", f"{row.format}, {row.scheme}, {_text.size(row.bytes)}"),
        ("licence", one.licence or "not stated"),
        ("proven", ("by its own word" if one.origin else "yes") if row.verified else "no"),
        ("made from", "\n".join(f"{each.role}: {each.label or each.parent}" for each in one.inputs)),
        ("came from", one.origin),
        ("measured", "\n".join(f"{each.name}: {each.said}" for each in one.figures)),
        ("gates", "\n".join(f"{each.gate}: {each.said}" for each in one.gates)),
        ("signed", "\n".join(map(_signed, one.signatures))),
        ("approved", "\n".join(f"by {each.get('by')}, {each.get('at')}. {each.get('note')}" for each in one.approvals)),
        ("leased", f"{len(facts['leases'])} times" if facts["leases"] else ""),
    ]
    files = [[each.path, each.kind, _text.size(each.blob.size), each.blob.digest[7:19]] for each in found.layers]
    return Said(facts, f"{_text.pairs(pairs)}\n\n{_text.table(['file', 'kind', 'size', 'digest'], files, 'llrl')}")


def _signed(one: Signature) -> str:
    import datetime

    said = [f"found to hold {datetime.datetime.fromtimestamp(at):%Y-%m-%d %H:%M}: {who}" for who, at in one.verified]
    return f"by {one.by}; {'; '.join(said) or 'not verified yet'}"


def _content(registry: Registry, attached: str) -> dict[str, Any]:
    """An attachment's document, or text."""
    from slmops.core import receipt

    layer = registry.manifest(attached).layers[0]
    if layer.kind == "text/markdown":
        return {"text": registry.blobs.read(layer.blob.digest, receipt.MOST_BYTES).decode(errors="replace")}
    return {"document": registry.content(attached)}
