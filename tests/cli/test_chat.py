"""slmops chat in a pipe, on a terminal, and with a server; slmops run from nothing to an answer."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import children
from conftest import SAMPLE
from fakehub import serve as serve_hub
from needs import needs
from serve.serving import ANSWER, ASKED, serving

pytestmark = [pytest.mark.slow, needs("xllamacpp")]
SAID = ASKED[0]["content"]
SLMOPS = [sys.executable, "-m", "slmops"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slmops import compile as compiler
    from slmops.source import load

    (made,) = compiler.convert(load(SAMPLE), ["gguf"], "q8", tmp_path_factory.mktemp("chat") / "gguf", verify=False)
    return made.folder


def ran(*words: object, said: str = "", code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*SLMOPS, *map(str, words)]
    done = subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


def test_in_a_pipe_a_line_is_a_turn(gguf: Path) -> None:
    done = ran("chat", gguf, "--temperature", 0, said=f"{SAID}\n/clear\n\n/none\n{SAID}\n/bye\nnever said\n")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [ANSWER, ANSWER]
    assert "no command /none" in done.stderr
    facts = json.loads(ran("chat", gguf, "--temperature", 0, "--json", said=f'"""{SAID}\n"""\n').stdout)
    assert [one["role"] for one in facts["messages"]] == ["user", "assistant"]
    assert json.loads(facts["messages"][1]["content"]) == ANSWER


def test_what_was_said_before_is_heard(gguf: Path) -> None:
    facts = json.loads(
        ran("chat", gguf, "--temperature", 0, "--system", "A house.", "--json", said=f"{SAID}\n{SAID}\n").stdout
    )
    assert [one["role"] for one in facts["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    too_long = ran("chat", gguf, "--context", "48", said=f"{SAID}\n{SAID}\n{SAID}\n", code=2)
    assert "context 48" in too_long.stderr


def test_a_server_is_talked_with_too(gguf: Path) -> None:
    with serving(f"home={gguf}", f"other={gguf}") as (url, _):
        assert json.loads(ran("chat", f"{url}/v1", "--temperature", 0, said=f"{SAID}\n").stdout) == ANSWER
        assert json.loads(ran("chat", url, "--model", "other", "--temperature", 0, said=SAID).stdout) == ANSWER
        assert "no model" in ran("chat", url, "--model", "none", said=SAID, code=3).stderr
    assert "does not answer" in ran("chat", url, said=SAID, code=16).stderr


@pytest.fixture
def terminal(gguf: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    ours, theirs = pty.openpty()

    command = [*SLMOPS, "chat", str(gguf), "--temperature", "2", "--top-p", "1", "--seed", "1", "--context", "4096"]
    command = children.after("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)", *command)
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    ) as process:
        os.close(theirs)
        try:
            yield ours, process
        finally:
            process.kill()
            os.close(ours)


class Screen:
    """What a terminal shows, read up to a mark."""

    def __init__(self, terminal: int) -> None:
        self.terminal, self.shown = terminal, b""

    def until(self, mark: bytes, seconds: float = 60.0) -> None:
        self.begins(lambda: mark in self.shown, seconds)
        self.shown = self.shown.partition(mark)[2]

    def begins(self, there: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.shown
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.shown += os.read(self.terminal, 4096)

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: tuple[int, subprocess.Popen[bytes]]) -> None:
    screen, process = Screen(terminal[0]), terminal[1]
    screen.until(b">>> ")
    screen.type(b"tell me a story\n")
    screen.until(b"story\r\n")
    screen.begins(lambda: bool(screen.shown))  # the answer
    screen.type(b"\x03")
    screen.until(b">>> ")
    # Between its prompt and its waiting, Python's readline notes a signal and acts on it with the next key.
    time.sleep(0.5)
    screen.type(b"\x03")
    screen.until(b"Ctrl-D or /bye ends")
    screen.until(b">>> ")
    screen.type(b"/help\n")
    screen.until(b"/clear")
    screen.until(b">>> ")
    screen.type(b"\x04")
    assert process.wait(timeout=30) == 0


def test_one_command_from_nothing_to_an_answer(tmp_path: Path) -> None:
    """Pulled from a Hub, compiled and proven; the second time without it, at once."""
    own = {"HF_HOME": str(tmp_path / "hf"), "SLMOPS_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serve_hub({"Org/Home-5M": Path(SAMPLE)}) as hub:
        first = json.loads(ran("run", "Org/Home-5M", SAID, "--json", HF_ENDPOINT=hub.url, **own).stdout)
        assert json.loads(first["text"]) == ANSWER and first["engine"] == "llamacpp"
        asked = len(hub.asked)
        again = ran("run", "Org/Home-5M", SAID, HF_ENDPOINT=hub.url, **own)
        assert json.loads(again.stdout) == ANSWER and len(hub.asked) == asked
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9", **own}
    began = time.monotonic()
    assert json.loads(ran("run", "org/home-5m", SAID, **gone).stdout) == ANSWER
    assert time.monotonic() - began < 10
    listed = json.loads(ran("models", "ls", "--json", **own).stdout)
    tags = {tag for row in listed for tag in row["tags"]}
    assert {"org/home-5m:latest", "org/home-5m:source"} <= tags
    assert "is here already" in ran("run", "org/home-5m:source", SAID, "--variant", "x", code=2, **gone).stderr
    assert "cannot be reached" in ran("run", "Org/None", SAID, code=16, **gone).stderr
