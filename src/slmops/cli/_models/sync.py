"""slmops models sync: make this registry and another the same, as far as they differ."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slmops.cli import _units
from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.registry.sync import Outcome, Synced

HELP = "make this registry and an OCI registry the same, tag by tag, both ways"
EXAMPLE = "slmops models sync oci:registry.example.com/edge --dry-run"
MARKS = {"push": "->", "pull": "<-", "remove there": "x>", "remove here": "<x", "conflict": "!!"}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("remote", help="oci:HOST[:PORT][/PREFIX]; NAME:TAG is PREFIX/NAME:TAG there")
    parser.add_argument("name", nargs="*", help="only these: NAME, NAME:TAG, or patterns of them (all)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--push", action="store_true", help="change the remote only")
    ways.add_argument("--pull", action="store_true", help="change this registry only")
    ways.add_argument("--both", action="store_true", help="both (so it is without any of the three)")
    parser.add_argument("--prefer", choices=("local", "remote"), help="whose tag wins where both sides moved it")
    parser.add_argument("--delete", action="store_true", help="remove on one side what was removed on the other")
    parser.add_argument("--dry-run", action="store_true", help="say what differs, change nothing")
    parser.add_argument("--plain-http", action="store_true", help="speak to the host without encryption")
    parser.add_argument("--jobs", type=_units.jobs, default=4, metavar="N", help="files at a time (4)")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.cli._progress import Progress
    from slmops.registry import Registry, sync

    ways: frozenset[sync.Side] = frozenset({"local", "remote"})
    if arguments.push or arguments.pull:
        ways = frozenset({"remote" if arguments.push else "local"})
    options = sync.Options(ways, arguments.prefer, arguments.delete, arguments.dry_run, arguments.plain_http, arguments.jobs)
    remote = sync.parse(arguments.remote)
    with Registry.open() as registry:
        done = sync.sync(registry, remote, arguments.name, options, Progress(quiet=arguments.json).watch())
    facts = {
        "remote": str(remote),
        "same": done.same,
        "listed": done.listed,
        "untold": {name: str(fault) for name, fault in done.untold},
        "reached": done.unreachable is None,
        "differences": [_facts(one) for one in done.outcomes],
    }
    return Said(facts, _text(done), done.fault)


def _facts(one: Outcome) -> dict[str, object]:
    what = one.difference
    found = {"name": str(what.name), "action": what.action, "documents": what.documents, "done": one.done}
    return {**found, "here": what.here, "there": what.there, "agreed": what.agreed, "said": one.said, "bytes": one.moved}


def _text(done: Synced) -> str:
    from slmops.cli import _text

    lines = []
    for one in done.outcomes:
        what = one.difference
        said = _text.size(one.moved) if one.done else one.said
        documents = ", what is attached" if what.documents else ""
        lines.append(f"{MARKS[what.action]} {what.name}{documents}: {said}")
    lines += [f"?? {name}: {fault}" for name, fault in done.untold]
    carried = sum(one.done for one in done.outcomes)
    left = f"{len(done.outcomes) - carried} {'left' if done.unreachable is None else 'waiting for a link'}"
    lines.append(f"{done.same} the same, {carried} brought over, {left}" if done.same or carried else left)
    if not done.listed and done.unreachable is None:
        lines.append("the remote does not list its repositories: only names that are known here were compared")
    return "\n".join(lines)
