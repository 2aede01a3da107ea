"""slmops pipeline templates: list pipelines to begin with, or print one."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "list pipelines to begin with, and a GitHub Actions workflow; or print one"
EXAMPLE = "slmops pipeline templates quantize-for-a-target -o home.yaml"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the one to print; without it, they are listed")
    parser.add_argument("-o", "--out", metavar="FILE", help="write it there instead")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> Said:
    from pathlib import Path

    from slmops.cli import _text
    from slmops.core import store
    from slmops.core.errors import SourceNotFound, UsageError
    from slmops.pipeline import templates

    if arguments.name is None:
        if arguments.out:
            raise UsageError("-o needs the name of a template", f"one of: {', '.join(templates.names())}")
        rows = [[name, templates.about(name)] for name in templates.names()]
        return Said([{"name": name, "about": about} for name, about in rows], _text.table(["template", "about"], rows, "ll"))
    text = templates.load(arguments.name)
    if not arguments.out:
        return Said({"name": arguments.name, "text": text}, text.rstrip("\n"))
    out = Path(arguments.out)
    if not arguments.force:
        store.refuse_existing(out)
    if not out.absolute().parent.is_dir():
        raise SourceNotFound(f"there is no folder for {out}", "make it first")
    store.write_whole(out, text)
    return Said({"name": arguments.name, "out": str(out)}, f"written: {out}")
