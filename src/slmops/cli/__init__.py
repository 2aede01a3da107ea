"""The command line: one verb a file in this folder.

    HELP, EXAMPLE
    add(parser)       its options
    run(arguments)    -> the exit code

A verb of verbs has in their place a ROOM, a folder beside it with one sub-verb a file, whose `run` gives a _sub.Said.
Only argparse is imported until a verb runs, so that `slmops --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from slmops.cli import _stopping
from slmops.core import plugins
from slmops.core.errors import SlmopsError


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of a command line. Only the verb that it asks for is imported; where it asks for none, all are."""
    import slmops

    main_parser = argparse.ArgumentParser(
        prog="slmops",
        description="Small language models from checkpoint to production: quantize once, run on every engine, verified.",
        epilog="First time here: slmops demo. Every verb has --help with an example, and --json.",
        allow_abbrev=False,
    )
    main_parser.add_argument("--version", action="version", version=f"slmops {slmops.__version__}")
    _verbs(main_parser.add_subparsers(dest="verb", metavar="VERB", required=True), "cli", words)
    return main_parser


def _verbs(parsers: argparse._SubParsersAction[argparse.ArgumentParser], room: str, words: Sequence[str]) -> None:
    """A parser for each verb of a room; options and sub-verbs of the one that is asked for alone."""
    asked = next((word for word in words if not word.startswith("-")), "")
    known = plugins.names(room)
    for name in (asked,) if asked in known else known:
        module = plugins.load(room, name)
        one = parsers.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP}\n\nexample:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name != asked:
            continue
        default = False if room == "cli" else argparse.SUPPRESS  # what stood before the sub-verb counts too
        one.add_argument("--json", action="store_true", default=default, help="print one JSON document instead of text")
        if hasattr(module, "ROOM"):
            below = one.add_subparsers(dest="what", metavar="WHAT", required=True)
            _verbs(below, module.ROOM, words[words.index(asked) + 1 :])
        else:
            module.add(one)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What a command line says, itself among it (`command`); exits with 2 for one that is none."""
    found = parser(words).parse_args(words)
    found.command = shlex.join(["slmops", *words])
    return found


def execute(arguments: argparse.Namespace) -> int:
    """What the arguments ask for; the exit code. Raises SlmopsError."""
    verb = plugins.load("cli", arguments.verb)
    if not hasattr(verb, "ROOM"):
        return int(verb.run(arguments))
    from slmops.cli import _sub

    _sub.say(plugins.load(verb.ROOM, arguments.what).run(arguments), arguments.json)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit code (core/errors.py)."""
    words = sys.argv[1:] if argv is None else argv
    _stopping.arm()
    for out in (sys.stdout, sys.stderr):
        if hasattr(out, "reconfigure"):  # a Windows console's own code page knows few letters
            out.reconfigure(encoding="utf-8", errors="replace")
    try:
        code = execute(parse(words))
        sys.stdout.flush()
        return code
    except SlmopsError as error:
        _complain(str(error), error.cure)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted: nothing half done is left", "")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left: nobody wants the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except PermissionError as error:
        _complain(f"not allowed: {error.strerror}: {error.filename}", "check the permissions, or choose another path")
        return 1


def _complain(fault: str, cure: str) -> None:
    print(f"slmops: {fault}", file=sys.stderr)
    if cure:
        print(f"        {cure}", file=sys.stderr)
