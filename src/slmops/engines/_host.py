"""The owner's side of a worker: start it, ask it, notice when it dies."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from slmops.core import errors, plugins
from slmops.core.errors import EngineCrashed, EngineFailed, EngineMissing, SlmopsError, UsageError
from slmops.core.tensor import Floats
from slmops.engines import AS_IT_COMES, Options, Sampling

STDERR_KEPT = 2000
"""Characters of a dead worker's last words that go into the error."""


@dataclass(frozen=True)
class Installed:
    """An engine that can be used here."""

    name: str
    version: str


def installed(name: str) -> Installed | None:
    """The engine with its version if all it needs is importable (nothing is imported), else None."""
    module = plugins.load("engines", name)
    check = getattr(module, "installed", None)
    if check is not None:
        version = check()
        return Installed(name, version) if version else None
    if any(importlib.util.find_spec(needed) is None for needed in module.MODULES):
        return None
    try:
        return Installed(name, importlib.metadata.version(module.PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        return None


def require(name: str) -> Installed:
    """`installed`, or EngineMissing with the command that installs it."""
    found = installed(name)
    if found is None:
        raise EngineMissing(f"the engine {name} is not installed", install_command(name))
    return found


def install_command(name: str) -> str:
    """What to type to get an engine."""
    module = plugins.load("engines", name)
    hint: str = getattr(module, "INSTALL", "") or f'pip install "slmops[{module.EXTRA}]"'
    return hint


def engines_for(form: str) -> list[str]:
    """Names of the engines that open this format, installed or not; the preferred one first."""
    found = [(plugins.load("engines", name), name) for name in plugins.names("engines")]
    matching = [(getattr(module, "PREFERENCE", 0), name) for module, name in found if form in module.FORMATS]
    return [name for _, name in sorted(matching, key=lambda item: (-item[0], item[1]))]


def check_kv(name: str, kv: str) -> None:
    """Raise UsageError for a precision of the KV cache that the engine does not have."""
    known = plugins.load("engines", name).KV
    if kv not in known:
        raise UsageError(f"{name} has no KV cache of {kv}", f"one of: {', '.join(known)}")


def _wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Shorten how long threads of an engine (GNU OpenMP: llama.cpp, PyTorch) spin while they wait for each other.

    By default that is milliseconds at every operation, which on a busy machine are taken from the very thread that is waited
    for (seen: llama.cpp 20 times slower, PyTorch 60 times); this is some ten microseconds. Who has set one of the two is
    obeyed.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", "2000")


@dataclass(frozen=True)
class Token:
    """One generated token: its id (None for a last piece of text), the text that became certain, seconds since the start."""

    id: int | None
    text: str
    seconds: float


class Worker:
    """One engine with one artifact in a child process. A context manager; memory comes back when it ends."""

    def __init__(
        self,
        engine: str,
        folder: Path,
        options: Options = AS_IT_COMES,
    ) -> None:
        """Raises UsageError for options that the engine does not have, EngineMissing, and what opening raises."""
        require(engine)
        check_kv(engine, options.kv)
        if options.parallel > 1 and "parallel" not in plugins.load("engines", engine).CAN:
            raise UsageError(f"{engine} takes one request at a time", "leave concurrency out, or take another engine")
        self.engine = engine
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false"}
        _wait_briefly(environment)
        # The child must find the very package that this process runs, installed or not.
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(plugins.ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slmops.engines._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            answer = self.ask("open", engine=engine, folder=str(folder.resolve()), options=asdict(options))
        except BaseException:
            self.close()
            raise
        self.effective: dict[str, str] = answer["effective"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError, ValueError):
            raise self._crashed() from None

    def _listen(self) -> None:
        """Answers into the queue; an empty line at the end."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed under it
            for line in self._process.stdout:
                self._lines.put(line)
            self._process.stdout.close()
        self._lines.put("")

    def _receive(self) -> dict[str, Any]:
        while True:
            # A dead worker's own forks can keep its pipe open, so the end of the pipe alone does not tell of its death.
            dead = self._process.poll() is not None
            try:
                line = self._lines.get(timeout=0.2)
                break
            except queue.Empty:
                if dead:
                    raise self._crashed() from None
        if not line.endswith("\n"):
            self._lines.put("")
            raise self._crashed()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"]["kind"], EngineFailed)
            raise kind(f"{self.engine}: {answer['error']['fault']}", answer["error"]["cure"])
        return answer

    def _crashed(self) -> EngineCrashed:
        code = self._process.wait()
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return EngineCrashed(f"{self.engine}'s process was killed by {name}{self._last_words()}", self._crash_cure(name))
        return EngineCrashed(f"{self.engine}'s process ended with code {code}{self._last_words()}", self._crash_cure(""))

    def _crash_cure(self, signal_name: str) -> str:
        if signal_name == "SIGKILL":
            return "the system may have run out of memory: use a smaller model, scheme or context"
        return "run it again; if it dies again, try another format or engine"

    def _last_words(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - STDERR_KEPT))
        words = self._stderr.read().decode("utf-8", "replace").strip()
        return f"; its last words:\n{words}" if words else ""

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One request, one answer. Raises what the engine raised, or EngineCrashed."""
        self._send({"method": method, "params": params})
        result: dict[str, Any] = self._receive()["result"]
        return result

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        """Logits f32 [len(ids), vocab]."""
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "logits.npy")
            self.ask("logits", ids=list(ids), chunks=list(chunks), out=out)
            return np.asarray(np.load(out, allow_pickle=False), np.float32)

    def compare(self, ids: Sequence[int], chunks: Sequence[int], reference: Path) -> dict[str, Any]:
        """How far the engine's logits are from those in a .npy file; see _worker.distance."""
        return self.ask("compare", ids=list(ids), chunks=list(chunks), reference=str(reference))

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each context and continuation, in ids; see _worker.Server.likelihoods."""
        found = self.ask("likelihoods", pairs=[[list(context), list(rest)] for context, rest in pairs])["found"]
        return [(float(total), bool(greedy)) for total, greedy in found]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.ask("encode", texts=list(texts))["ids"]
        return ids

    def render(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[str | None]:
        texts: list[str | None] = self.ask("render", conversations=[list(messages) for messages in conversations])["texts"]
        return texts

    def memory(self) -> dict[str, int]:
        """{"resident": bytes now, "peak": bytes at most} of the worker."""
        return {key: int(value) for key, value in self.ask("memory").items()}

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Generator[Token, None, None]:
        """Tokens as they come. Closing the iterator cancels the generation and waits until the engine has stopped."""
        began = time.perf_counter()
        with contextlib.closing(self._events("generate", ids=list(ids), sampling=asdict(sampling))) as events:
            for event in events:
                # perf_counter is one clock for all processes where engines run; a negative difference means it is not.
                seconds = event["at"] - began
                yield Token(event["token"], event["text"], seconds if seconds >= 0 else time.perf_counter() - began)

    def serve(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, at_once: int
    ) -> Iterator[tuple[int, int | None, float]]:
        """(which prompt, token, seconds since the start) of all prompts, `at_once` of them in flight until all are done.

        The token is None at the moment in which a request is made. Only for engines that say "parallel" in CAN.
        """
        began = time.perf_counter()
        ids = [list(prompt) for prompt in prompts]
        with contextlib.closing(self._events("serve", prompts=ids, sampling=asdict(sampling), at_once=at_once)) as events:
            for event in events:
                yield event["which"], event["token"], event["at"] - began

    def _events(self, method: str, **params: Any) -> Generator[dict[str, Any], None, None]:
        """Events until the result. Closing the iterator cancels, and waits until the engine has stopped."""
        self._send({"method": method, "params": params})
        finished = False
        try:
            while True:
                answer = self._receive()
                if "result" in answer:
                    finished = True
                    self.effective = answer["result"]["effective"]
                    return
                yield answer["event"]
        except SlmopsError:  # the worker's answer, whatever its kind: there is nothing to cancel
            finished = True
            raise
        finally:
            if not finished and self._process.poll() is None:
                self._send({"cancel": True})
                while "result" not in self._receive():
                    pass

    def kill(self) -> None:
        """End the worker at once, from any thread: what waits for an answer raises EngineCrashed."""
        self._process.kill()

    def close(self) -> None:
        """End the worker: politely, then not."""
        if self._process.poll() is None:
            with contextlib.suppress(EngineCrashed):
                self._send({"method": "close"})
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.kill()
        self.close()
