"""slmops pipeline schema: print the JSON schema of pipelines, for editors."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "print the JSON schema of pipelines, for editors and other tools"
EXAMPLE = "slmops pipeline schema"


def add(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> Said:
    import json

    from slmops.pipeline import schema

    whole = schema.whole()
    return Said(whole, json.dumps(whole, indent=1))
