"""slmops compat: what people type for another tool, as slmops' own verb: shown, and run."""

from __future__ import annotations

import argparse

HELP = "take another tool's command line (olive, ollama, foundry), show the verb that does the same here, and run it"
EXAMPLE = "slmops compat olive auto-opt -m samples/home --precision int4 -o out --dry_run"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tool", help="olive, nncf, ollama or foundry; alone: what stands for each of its passes or commands here"
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help="its command line; --dry-run at the end only shows ours")


def run(arguments: argparse.Namespace) -> int:
    import json
    import shlex
    import sys

    from slmops import cli
    from slmops.core import plugins
    from slmops.core.errors import UsageError

    tool = plugins.load("compat", arguments.tool)
    words = [word for word in arguments.words if word not in ("--json", "--dry-run")]
    as_json, dry = arguments.json or "--json" in arguments.words, "--dry-run" in arguments.words
    if not words:
        print(json.dumps(tool.TABLE, indent=1) if as_json else table(arguments.tool))
        return 0
    if not hasattr(tool, "translate"):
        raise UsageError(f"{tool.TITLE} has no command line", f"its algorithms: slmops compat {arguments.tool}")
    native = tool.translate(words)
    line = shlex.join(["slmops", *native.words])
    if as_json and (dry or native.dry):
        print(json.dumps({"native": ["slmops", *native.words], "notes": native.notes}, indent=1))
    else:
        # The line is what is asked for where nothing runs; else it stands beside the verb's own output.
        shown = sys.stdout if dry or native.dry else sys.stderr
        print("\n".join([line, *(f"  note: {note}" for note in native.notes)]), file=shown, flush=True)
    if dry or native.dry:
        return 0
    more = ["--json"] if as_json else []
    words = [*native.words, *more]
    return cli.execute(cli.parse(words))


def table(name: str) -> str:
    """Every pass or command of a tool with what stands for it, as a Markdown table."""
    from slmops.core import plugins

    tool = plugins.load("compat", name)
    rows = [f"| {each} | {verdict} | {said} |" for each, (verdict, said) in tool.TABLE.items()]
    return "\n".join([f"| {getattr(tool, 'NOUN', 'pass')} | here | how, or why not |", "|---|---|---|", *rows])
