"""Processes that tests start: nothing here waits for ever, and nothing runs between fork and exec.

`preexec_fn` can deadlock where other threads run, as engines' do: what has to be set in a child is set by a Python that
then becomes the child's program.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

SECONDS = 120.0
"""Longer than anything takes that is waited for, on a machine that others use."""


def line(process: subprocess.Popen[str], seconds: float = SECONDS) -> str:
    """The next line that it says; one that is silent for so long is killed, which ends what it says."""
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def ended(process: subprocess.Popen[Any], seconds: float = 30.0) -> None:
    """Ask it to end, and end it where it does not."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)


def after(statement: str, *words: str) -> list[str]:
    """A command that executes the statement in the very process that then becomes this command."""
    return [sys.executable, "-c", f"import os, sys\n{statement}\nos.execvp(sys.argv[1], sys.argv[1:])", *words]


def limited(size: int, *words: str) -> list[str]:
    """A command whose files cannot grow past `size` bytes: the error that a file system without room gives (EFBIG)."""
    return after(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))", *words)
