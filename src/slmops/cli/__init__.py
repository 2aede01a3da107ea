"""The command line: one verb a file in this folder. A file holds HELP, EXAMPLE, add(parser) and run(arguments).

Only argparse is imported until a verb runs, so that `slmops --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from types import FrameType
from typing import NoReturn

from slmops.core import plugins
from slmops.core.errors import SlmopsError


def parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser; only the asked verb's options are filled in."""
    import slmops

    main_parser = argparse.ArgumentParser(
        prog="slmops",
        description="Small language models from checkpoint to production: quantize once, run on every engine, verified.",
        epilog="First time here: slmops demo. Every verb has --help with an example, and --json.",
        allow_abbrev=False,
    )
    main_parser.add_argument("--version", action="version", version=f"slmops {slmops.__version__}")
    verbs = main_parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in plugins.names("cli"):
        module = plugins.load("cli", name)
        one = verbs.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP}\n\nexample:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == verb:
            one.add_argument("--json", action="store_true", help="print one JSON document instead of text")
            module.add(one)
    return main_parser


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit code (core/errors.py)."""
    words = sys.argv[1:] if argv is None else argv
    verb = next((word for word in words if not word.startswith("-")), None)
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _terminated)
    for out in (sys.stdout, sys.stderr):
        if hasattr(out, "reconfigure"):  # a Windows console's own code page knows few letters
            out.reconfigure(encoding="utf-8", errors="replace")
    try:
        arguments = parser(verb).parse_args(words)
        arguments.command = shlex.join(["slmops", *words])
        code = plugins.load("cli", arguments.verb).run(arguments)
        sys.stdout.flush()
        return int(code)
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


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like an error, so that temporary folders go."""
    raise SystemExit(128 + number)


def _complain(fault: str, cure: str) -> None:
    print(f"slmops: {fault}", file=sys.stderr)
    if cure:
        print(f"        {cure}", file=sys.stderr)
