"""Python's `re` cannot be told to stop, and some patterns take years: they are matched in a child process, which can."""

from __future__ import annotations

import json
import subprocess
import sys

from slmops.core.errors import UsageError

SECONDS = 5.0


def call(program: str, *arguments: object, what: str) -> bool:
    """Run a program that reads the arguments as one JSON list on its standard input, and exits with 0 for yes, 3 for no.

    Raises UsageError when it takes longer than SECONDS; `what` says what took so long.
    """
    command, given = [sys.executable, "-P", "-c", program], json.dumps(arguments)
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{what} took more than {SECONDS:g} s on one answer", "write it without nested repeats") from None
    if done.returncode not in (0, 3):
        raise UsageError(f"{what} cannot be applied: {done.stderr.strip()[-300:]}")
    return done.returncode == 0
