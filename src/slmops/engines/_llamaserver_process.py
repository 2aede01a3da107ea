"""A llama-server as a child process: on a free loopback port, with a key of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineCrashed, EngineFailed, UsageError

KEEPER = Path(__file__).with_name("_keeper.py")
KEY = "LLAMA_API_KEY"
"""The variable that the server takes its key from."""
START_SECONDS = 600
KILLED = (-9, 137)
"""Ends of a server, or of its keeper, that somebody else made."""


@dataclass(frozen=True)
class Start:
    """What a server is started with."""

    file: str
    context: int
    """Of each request."""
    parallel: int
    threads: int
    device: str
    kv: str
    """A name of ggml's, "" for its default."""
    reuse: bool = False
    """Whether prompts are kept for others that begin alike."""
    adapters: tuple[str, ...] = ()
    """Files of low-rank adapters, each off until a request names it."""
    embeds: bool = False
    """Vectors in place of texts."""
    pools: bool = True
    """Whether vectors are means of those of the tokens, and not what the file says."""

    @property
    def cache_mib(self) -> int:
        """Room for prompts of slots that were given to others. None with adapters: what is kept there does not say through
        which it was computed, and comes back under another."""
        return CACHE_MIB if self.reuse and not self.adapters else 0


CACHE_MIB = 256


class Process:
    """Started at once; `wait` until it answers."""

    def __init__(self, command: Callable[[Start, int], list[str]], start: Start) -> None:
        """command: the program with its arguments, to listen on a port."""
        self.key = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._kept: http.client.HTTPConnection | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), *command(start, self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, KEY: self.key},
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline() or 0)

    def wait(self) -> None:
        """Until the model is loaded. Raises EngineFailed with the server's words where it is not, and ends it."""
        try:
            end = time.monotonic() + START_SECONDS
            while time.monotonic() < end:
                if (code := self.process.poll()) is not None:
                    if code in KILLED:
                        raise EngineCrashed(f"llama-server ended with code {code}", "the system may be out of memory")
                    raise EngineFailed(f"llama-server cannot open the model{self._words()}", "try the engine llamacpp")
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                    connection.request("GET", "/health", headers={"Connection": "close"})
                    status = connection.getresponse().status
                    connection.close()
                    if status == 200:
                        return
                time.sleep(0.02)
            raise EngineFailed(f"llama-server does not answer after {START_SECONDS} s{self._words()}")
        except BaseException:
            self.close()
            raise

    def _words(self) -> str:
        """The end of what the server printed."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 1500))
        words = self._said.read().decode("utf-8", "replace").strip()
        return f"; its last words:\n{words}" if words else ""

    @contextlib.contextmanager
    def post(self, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
        """A request on a connection of its own, closed on leaving: that also cancels a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}", "Connection": "close"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                said = f"llama-server answers {path} with {answer.status}: {answer.read(500)!r}"
                raise UsageError(said) if answer.status == 400 else EngineFailed(said)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error) from None
        finally:
            connection.close()

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """One answer in JSON, over a connection that stays open from one to the next."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        for fresh in (False, True):
            if self._kept is None or fresh:
                self._kept = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            try:
                self._kept.request("POST", path, json.dumps(body), headers)
                answer = self._kept.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._kept.close()
                self._kept = None
                if fresh:
                    raise self.lost(error) from None
                continue  # the server closes what was idle for some seconds
            if answer.status != 200:
                said = f"llama-server answers {path} with {answer.status}: {data[:500]!r}"
                raise UsageError(said) if answer.status == 400 else EngineFailed(said)
            return json.loads(data)
        raise AssertionError

    def lost(self, error: BaseException) -> EngineCrashed | EngineFailed:
        """What a broken connection means."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(timeout=5)
            return EngineCrashed(
                f"llama-server ended with code {code}{self._words()}", "run it again; it may have run out of memory"
            )
        return EngineFailed(f"llama-server broke the connection: {error!r}")

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._said.close()
