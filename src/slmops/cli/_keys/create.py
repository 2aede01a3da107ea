"""slmops keys create: make a key, which is shown once."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "make a key, which is shown once: the file keeps its hash"
EXAMPLE = "slmops keys create ann --keys keys.yaml --models 'home*' --requests-per-minute 60 --expires 90d"


def add(parser: argparse.ArgumentParser) -> None:
    from typing import get_args

    from slmops.serve.request import Role

    parser.add_argument("name", help="whose it is: what the audit log says of its requests")
    parser.add_argument("--keys", required=True, metavar="FILE", help="the file of keys; made if it is not there")
    parser.add_argument("--role", default="user", choices=get_args(Role), help="(user)")
    parser.add_argument(
        "--models", action="append", metavar="PATTERN", help="of the names that it may use; again for more (all)"
    )
    for what in ("requests-per-minute", "tokens-per-minute", "tokens-per-day", "concurrent"):
        parser.add_argument(f"--{what}", type=int, metavar="N", help="at most (no bound)")
    parser.add_argument("--expires", metavar="WHEN", help="a date, or a time from now such as 90d (never)")
    parser.add_argument("--subject", metavar="NAME", help="no key: the common name of a client certificate")


def run(arguments: argparse.Namespace) -> Said:
    import time
    from pathlib import Path

    from slmops.cli import _when
    from slmops.core.errors import OutputExists, UsageError
    from slmops.serve import keys
    from slmops.serve.request import Caller, Limits

    limits = Limits(**{name: getattr(arguments, name) for name in keys.LIMITS})
    if not keys.NAME.fullmatch(arguments.name):
        raise UsageError(f"{arguments.name[:80]!r} is no name of a key", "up to 64 letters, digits and ._@-")
    if any(one is not None and one < 1 for one in vars(limits).values()):
        raise UsageError("a limit is at least 1", "leave it out for none")
    caller = Caller(arguments.name, arguments.role, tuple(arguments.models or ("*",)), limits)
    expires = _when.ahead(arguments.expires) if arguments.expires else None
    made = None if arguments.subject else keys.fresh()
    with keys.changing(Path(arguments.keys), create=True) as found:
        if arguments.name in found:
            raise OutputExists(f"{arguments.keys} has a key {arguments.name} already", "slmops keys rotate makes a new one")
        hashed = keys.mark(made) if made is not None else None
        found[arguments.name] = keys.Key(caller, hashed, arguments.subject, expires, time.time())
    if made is None:
        return Said({"name": arguments.name, "subject": arguments.subject}, f"{arguments.name}: {arguments.subject}")
    return Said({"name": arguments.name, "role": arguments.role, "key": made}, made)
