"""slmops models show: say everything of one: files, step, figures, verdicts of gates."""

from __future__ import annotations

import argparse

from slmops.cli._reference import REFERENCE
from slmops.cli._sub import Said

HELP = "say everything of one: files, step, figures, verdicts of gates"
EXAMPLE = "slmops models show home:q4"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help=REFERENCE)


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text
    from slmops.registry import Registry, manifest

    with Registry.open() as registry:
        digest = registry.resolve(arguments.reference)
        found = registry.manifest(digest)
        row = next(row for row in registry.rows() if row.digest == digest)
        config = registry.document(found.config)
        attached = [
            {"digest": one, "kind": kind, "document": registry.document(registry.manifest(one).layers[0].blob)}
            for one, kind in registry.catalog.attachments(digest)
        ]
        gates = registry.catalog.gates(digest)
        facts = {
            **row._asdict(),
            "config": config,
            "annotations": dict(found.annotations),
            "files": [{"path": one.path, "kind": one.kind, **dataclasses.asdict(one.blob)} for one in found.layers],
            "inputs": [dataclasses.asdict(one) for one in manifest.inputs(found)],
            "attachments": attached,
            "leases": [dataclasses.asdict(one) for one in registry.catalog.leases() if one.digest == digest],
        }
        pairs = [
            ("digest", digest),
            ("names", ", ".join(row.tags)),
            ("model", f"{row.name} ({row.family})"),
            ("format", f"{row.format}, {row.scheme}, {_text.size(row.bytes)}"),
            ("proven", "yes" if row.verified else "no"),
            ("made from", "\n".join(f"{one.role}: {one.label or one.parent}" for one in manifest.inputs(found))),
            ("leased", f"{len(facts['leases'])} times" if facts["leases"] else ""),
            ("gates", "\n".join(f"{gate}: {said}" for gate, _, _, said in gates)),
        ]
        files = [[one.path, one.kind, _text.size(one.blob.size), one.blob.digest[7:19]] for one in found.layers]
        return Said(facts, f"{_text.pairs(pairs)}\n\n{_text.table(['file', 'kind', 'size', 'digest'], files, 'llrl')}")
