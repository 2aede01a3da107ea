"""slmops models gc: remove what no name and no lease leads to, after its grace."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "remove what no name and no lease leads to, after its grace"
EXAMPLE = "slmops models gc --grace 0s --dry-run"


def add(parser: argparse.ArgumentParser) -> None:
    grace = "since the last name went, or a blob was last asked for: 24h, 30d, 0s (24h)"
    parser.add_argument("--grace", default="24h", metavar="TIME", help=grace)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text, _units
    from slmops.registry import Registry, gc

    with Registry.open() as registry:
        grace = 0.0 if arguments.grace in ("0", "0s") else _units.seconds(arguments.grace)
        found = gc.sweep(registry, grace, dry_run=arguments.dry_run)
        would = "would go" if arguments.dry_run else "gone"
        lines = [f"{would}: {len(found.artifacts)} artifacts, {found.blobs} blobs, {_text.size(found.bytes)}"]
        for kept, why in ((found.leased, "leased"), (found.young, "younger than their grace")):
            lines += [f"kept without a name: {len(kept)}, {why}"] if kept else []
        return Said(dataclasses.asdict(found), "\n".join(lines))
