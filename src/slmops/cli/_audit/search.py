"""slmops audit search: lines of the log, by who, what, which model and when."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "lines of the log, by who, what, which model and when"
EXAMPLE = "slmops audit search audit --who ann --model 'home*' --since 7d"


def add(parser: argparse.ArgumentParser) -> None:
    from slmops.cli import _audited

    _audited.add(parser)
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="lines, the latest (1000)")


def run(arguments: argparse.Namespace) -> Said:
    from collections import deque

    from slmops.cli import _audited

    found = deque(_audited.found(arguments), max(1, arguments.most))
    return Said(list(found), "\n".join(_audited.shown(one) for one in found) or "no such line")
