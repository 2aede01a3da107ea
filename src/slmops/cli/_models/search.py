"""slmops models search: look for models in a catalogue elsewhere; fetches none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.catalogues import Listed

HELP = "look for models in a catalogue elsewhere: the Hugging Face Hub, or Azure AI Foundry's; fetches none"
EXAMPLE = "slmops models search qwen3 --size 0.5B-4B --licence apache-2.0 --limit 10"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", default="", help="part of a name")
    parser.add_argument("--source", default="hub", metavar="NAME", help="the catalogue: hub or foundry (hub)")
    parser.add_argument(
        "--task", default="text-generation", metavar="TASK", help="what it is for; any: whatever (text-generation)"
    )
    parser.add_argument("--size", metavar="FROM-TO", help="parameters: 0.5B-4B, -3B, or a tier: micro, small, medium")
    parser.add_argument("--licence", default="", metavar="NAME", help="such as apache-2.0")
    parser.add_argument(
        "--sort", default="", metavar="BY", help="downloads, likes, updated or trending; foundry: name, size"
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="entries at most (20)")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses

    from slmops import catalogues
    from slmops.cli import _text
    from slmops.core import plugins
    from slmops.core.errors import UsageError

    catalogue = plugins.load(catalogues.ROOM, arguments.source)
    if not 1 <= arguments.limit <= catalogues.MOST:
        raise UsageError(f"--limit {arguments.limit} is out of bounds", f"1 to {catalogues.MOST}")
    if arguments.sort and arguments.sort not in catalogue.SORTS:
        fault = f"{arguments.source} has no order by {arguments.sort!r}"
        raise UsageError(fault, f"one of: {', '.join(catalogue.SORTS)}")
    low, high = catalogues.sizes(arguments.size) if arguments.size else (0, None)
    task = "" if arguments.task == "any" else arguments.task
    wanted = catalogues.Wanted(arguments.text, task, low, high, arguments.licence, arguments.sort, arguments.limit)
    found: list[Listed] = catalogue.search(wanted)
    facts = {"source": arguments.source, "models": [dataclasses.asdict(one) for one in found]}
    if not found:
        return Said(facts, f"nothing of that kind in {catalogue.HELP}")
    rows = [[one.name, *_row(one)] for one in found]
    header = ["model", "parameters", "size", "licence", "context", "made for", "downloads", "likes"]
    kept = [
        column for column in range(len(header)) if any(row[column] for row in rows)
    ]  # what none of them says is left out
    rows = [[row[column] for column in kept] for row in rows]
    table = _text.table([header[column] for column in kept], rows, "".join("lrrlrlrr"[column] for column in kept))
    first = f"next: slmops models compare {' '.join(one.name for one in found[:3])}" if arguments.source == "hub" else ""
    return Said(facts, "\n\n".join(filter(None, [table, first])))


def _row(one: Listed) -> list[str]:
    from slmops.cli import _text

    return [
        _text.count(one.parameters) if one.parameters is not None else "",
        _text.size(one.bytes) if one.bytes is not None else "",
        (one.licence or "") + (" (gated)" if one.gated else ""),
        f"{one.context:,}" if one.context is not None else "",
        one.device or "",
        f"{one.downloads:,}" if one.downloads is not None else "",
        f"{one.likes:,}" if one.likes is not None else "",
    ]
