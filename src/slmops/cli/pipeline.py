"""slmops pipeline: steps in a file, each remembered, with references between them. Its sub-verbs are in _pipeline/."""

from __future__ import annotations

import argparse

from slmops.cli import _sub

HELP = "run, check and begin pipelines: steps in a YAML file, each remembered, with references between them"
EXAMPLE = "slmops pipeline run home.yaml --set quantize=q8"
ROOM = "cli._pipeline"


def add(parser: argparse.ArgumentParser) -> None:
    _sub.add(parser, ROOM)


def run(arguments: argparse.Namespace) -> int:
    return _sub.run(ROOM, arguments)
