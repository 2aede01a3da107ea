"""The real server as a process, for every test file here: `from serve.serving import serving`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import children

ASKED = [{"role": "user", "content": "please set the kitchen light to 30 percent"}]
ANSWER = {"tool": "set_light", "arguments": {"room": "kitchen", "level": 30}}
KEY = "a-key-of-more-than-16-letters"


@contextlib.contextmanager
def serving(*words: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "slmops", "serve", *map(str, words), "--port", "0", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            line = children.line(process)
            assert line, process.stderr.read() if process.stderr else ""
            yield json.loads(line)["url"], process
        finally:
            process.kill()


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        return int(urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=60).status)
    except urllib.error.HTTPError as error:
        return error.code
