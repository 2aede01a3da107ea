"""slmops keys list: the keys of a file, by name; none of them can be read from it."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "the keys of a file: names, roles, limits, expiry"
EXAMPLE = "slmops keys list --keys keys.yaml"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", required=True, metavar="FILE", help="the file of keys")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses
    import time
    from pathlib import Path

    from slmops.serve import keys

    now = time.time()
    facts, lines = [], []
    for name, key in keys.read(Path(arguments.keys)).items():
        limits = {what: most for what, most in dataclasses.asdict(key.caller.limits).items() if most is not None}
        expires = keys.shown(key.expires) if key.expires is not None else None
        models = list(key.caller.models)
        facts.append(
            {"name": name, "role": key.caller.role, "models": models, "limits": limits, "expires": expires}
            | {"holds": key.holds(now), "subject": key.subject}
        )
        said = [key.caller.role, *models, *(f"{what.replace('_', ' ')} {most}" for what, most in limits.items())]
        said += [f"{'until' if key.holds(now) else 'expired'} {expires}"] if expires else []
        lines.append(f"{name:24} {', '.join(said)}")
    return Said(facts, "\n".join(lines) or "no keys")
