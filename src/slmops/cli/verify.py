"""slmops verify: prove an artifact again."""

from __future__ import annotations

import argparse

HELP = "read an artifact back code for code and compare its engines' logits, token ids and chat texts with the reference"
EXAMPLE = "slmops verify out/gguf"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", help="a folder that slmops wrote, or a name in the registry")
    parser.add_argument("--engine", action="append", help="only this engine (may be repeated); default: all installed")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops import prove
    from slmops.cli import _reference
    from slmops.cli._progress import Progress

    progress = Progress(quiet=arguments.json)
    found = prove.verify(
        _reference.folder(arguments.artifact), device=arguments.device, engines=arguments.engine, say=progress.say
    )
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(prove.summary(found)))
    return 0
