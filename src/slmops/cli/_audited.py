"""What `slmops audit search` and `export` have in common: which lines, and a line for people."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="what slmops serve --audit was given")
    parser.add_argument("--who", metavar="PATTERN", help="the name of a key, or a pattern of names")
    parser.add_argument("--model", metavar="PATTERN", help="as it was asked for")
    parser.add_argument("--digest", metavar="START", help="of what answered, or the first digits of it")
    parser.add_argument("--kind", choices=("asked", "changed", "refused", "started", "ended", "continued", "retired"))
    parser.add_argument("--outcome", metavar="WORD", help="stop, length, cancelled, Busy, EngineCrashed, ...")
    parser.add_argument("--since", metavar="WHEN", help="a date, a time, or so long ago (2h)")
    parser.add_argument("--until", metavar="WHEN")


def found(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines that are asked for, in their order."""
    import datetime
    from fnmatch import fnmatchcase
    from pathlib import Path

    from slmops.cli import _when
    from slmops.serve import chain

    since = _when.ago(arguments.since) if arguments.since else None
    until = _when.ago(arguments.until) if arguments.until else None
    digest = (arguments.digest or "").removeprefix("sha256:")
    for one in chain.entries(Path(arguments.folder)):
        at = datetime.datetime.fromisoformat(one["at"]).timestamp()
        if (since is not None and at < since) or (until is not None and at > until):
            continue
        if arguments.who and not fnmatchcase(str(one.get("who", "")), arguments.who):
            continue
        if arguments.model and not fnmatchcase(str(one.get("model", "")), arguments.model):
            continue
        if digest and not str(one.get("digest", "")).removeprefix("sha256:").startswith(digest):
            continue
        if (arguments.kind or one["what"]) != one["what"] or (arguments.outcome or one.get("outcome")) != one.get("outcome"):
            continue
        yield one


def shown(one: dict[str, Any]) -> str:
    """A line for people."""
    rest = {name: value for name, value in one.items() if name not in ("seq", "at", "what", "who", "prev", "role")}
    return "  ".join([f"{one['at']}  {one['what']:8} {one.get('who', ''):16}", *(f"{name}={rest[name]}" for name in rest)])
