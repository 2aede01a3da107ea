"""The real server as a process, for every test file here: `from serve.serving import serving`."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

ASKED = [{"role": "user", "content": "please set the kitchen light to 30 percent"}]
ANSWER = {"tool": "set_light", "arguments": {"room": "kitchen", "level": 30}}
KEY = "a-key-of-more-than-16-letters"


@contextlib.contextmanager
def serving(*words: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "slmops", "serve", *map(str, words), "--port", "0", "--json"]
    # A shell that runs the tests in the background has them ignore SIGINT, and what they start too.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heard) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield json.loads(line)["url"], process
        finally:
            process.kill()


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        return int(urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})).status)
    except urllib.error.HTTPError as error:
        return error.code
