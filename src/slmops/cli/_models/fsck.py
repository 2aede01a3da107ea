"""slmops models fsck: read every byte, and say what is not as it must be."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "read every byte, and say what is not as it must be"
EXAMPLE = "slmops models fsck"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="make or fetch again what can be; set damaged blobs aside")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops.cli import _text
    from slmops.cli._progress import Progress
    from slmops.core.errors import CorruptInput
    from slmops.registry import fsck

    checked = fsck.check(repair=arguments.repair, watch=Progress(arguments.json).watch())
    lines = [f"{'repaired ' if one.repaired else ''}{one.what} {one.name}: {one.said}" for one in checked.problems]
    lines.append(f"{checked.manifests} manifests, {checked.blobs} blobs, {_text.size(checked.bytes)} read")
    facts = {**dataclasses.asdict(checked), "sound": checked.sound}
    count = sum(not one.harmless and not one.repaired for one in checked.problems)
    cure = "" if arguments.repair else "--repair mends what can be mended"
    return Said(facts, "\n".join(lines), None if checked.sound else CorruptInput(f"{count} faults were found", cure))
