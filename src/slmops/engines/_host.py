"""The owner's side of a worker: start it, ask it, notice when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from slmops.core import errors, plugins, store
from slmops.core.errors import EngineCrashed, EngineFailed, SlmopsError, UsageError
from slmops.engines import AS_IT_COMES, Options, Sampling, _installed

if TYPE_CHECKING:
    from slmops.core.tensor import Floats

NEWS = b'{"news"'
"""How lines begin that are not answers."""
STDERR_KEPT = 2000
"""Characters of a dead worker's last words that go into the error."""


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
        _installed.require(engine)
        _installed.check_kv(engine, options.kv)
        if _installed.at_once(engine, options.parallel) < options.parallel:
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
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._tell: Callable[[list[bytes]], None] | None = None
        listening = threading.Thread(target=self._listen, daemon=True)
        for thread in (
            listening,
            threading.Thread(target=self._write, daemon=True),
            threading.Thread(target=self._watch, args=(listening,), daemon=True),
        ):
            thread.start()
        self.effective: dict[str, str] = {}
        try:
            self.open(folder, options)
        except BaseException:
            self.close()
            raise

    def open(self, folder: Path, options: Options) -> None:
        """Another artifact in place of the one that is open: the engine need not be loaded again, which takes seconds."""
        answer = self.ask("open", engine=self.engine, folder=str(folder.resolve()), options=asdict(options))
        self.effective = answer["effective"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _send(self, message: Mapping[str, Any]) -> None:
        """From any thread; never waits. Who is dead is noticed where its answer is waited for."""
        self._unsent.put(json.dumps(message).encode() + b"\n")

    def _write(self) -> None:
        """A full pipe makes this thread wait, and nobody else."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while (line := self._unsent.get()) is not None:
                self._process.stdin.write(line)
                if not self._unsent.qsize():
                    self._process.stdin.flush()
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _listen(self) -> None:
        """News to who is told of them, as many lines at once as there are; answers into the queue."""
        assert self._process.stdout is not None
        source, rest = self._process.stdout.fileno(), b""
        with contextlib.suppress(ValueError, OSError):  # closed under it
            while data := os.read(source, 1 << 18):
                *lines, rest = (rest + data).split(b"\n")
                news = [line for line in lines if line.startswith(NEWS)]
                for line in lines:
                    if not line.startswith(NEWS):
                        self._lines.put(line)
                if news and self._tell is not None:
                    self._tell(news)
            self._process.stdout.close()

    def _watch(self, listening: threading.Thread) -> None:
        """An empty line at the worker's end. Its own forks can keep its pipe open, so the pipe's end is not waited for."""
        self._process.wait()
        listening.join(1.0)
        self._unsent.put(None)
        self._lines.put(b"")
        if self._tell is not None:
            self._tell([])

    def _receive(self) -> dict[str, Any]:
        line = self._lines.get()
        if not line:
            self._lines.put(b"")  # for who asks again
            raise self.crashed()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self.fault(answer["error"])
        return answer

    def fault(self, said: Mapping[str, str]) -> SlmopsError:
        """An error that the worker told."""
        kind: type[SlmopsError] = getattr(errors, said["kind"], EngineFailed)
        return kind(f"{self.engine}: {said['fault']}", said["cure"])

    def crashed(self) -> EngineCrashed:
        """Why it ended."""
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
        with self._asking:
            self._send({"method": method, "params": params})
            result: dict[str, Any] = self._receive()["result"]
        return result

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        """Logits f32 [len(ids), vocab]."""
        import numpy as np

        with store.scratch("logits") as folder:
            out = str(folder / "logits.npy")
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

    def embed(self, text: str, bos: int | None) -> tuple[tuple[float, ...], int]:
        """A vector of length 1, and the tokens of the text."""
        found = self.ask("embed", text=text, bos=bos)
        return tuple(found["vector"]), int(found["tokens"])

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

    def flow(self, tell: Callable[[list[bytes]], None]) -> None:
        """From now on, lines of news go to `tell`, on a thread of the worker's; an empty list once it has ended."""
        self._tell = tell
        if self._process.poll() is not None:
            tell([])

    def add(
        self, which: int, sampling: Sampling, *, ids: Sequence[int] | None = None, text: str = "", bos: int | None = None
    ) -> None:
        """A request into the flow, from any thread; see _worker.Server.add."""
        asked = {key: value for key, value in asdict(sampling).items() if value is not None}
        self._send({"add": which, "ids": None if ids is None else list(ids), "text": text, "bos": bos, "sampling": asked})

    def drop(self, which: int) -> None:
        """Nobody waits for a request any more; from any thread."""
        self._send({"drop": which})

    def serve(self, prompts: Sequence[Sequence[int]], sampling: Sampling, at_once: int) -> Iterator[tuple[int, int, float]]:
        """(which prompt, tokens that came, seconds since the start) of all prompts, `at_once` of them in flight until all
        are done. No tokens: the moment in which a request is made. Only for engines that say "parallel" in CAN."""
        lines: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self.flow(lines.put)
        waiting, flying, began = list(enumerate(prompts))[::-1], set[int](), time.perf_counter()
        try:
            while waiting or flying:
                while waiting and len(flying) < at_once:
                    which, ids = waiting.pop()
                    flying.add(which)
                    yield which, 0, time.perf_counter() - began
                    self.add(which, sampling, ids=ids)
                came = lines.get()
                if not came:
                    raise self.crashed()
                for told in map(json.loads, came):
                    for one in told["news"]:
                        if "error" in one:
                            flying.discard(one["which"])
                            raise self.fault(one["error"])
                        if one.get("tokens"):
                            yield one["which"], one["tokens"], told["at"] - began
                        if "end" in one:
                            flying.discard(one["which"])
        finally:
            self._tell = None
            for which in flying:
                self.drop(which)
            # Some engines choose a device or a precision only when they first compute.
            if self._process.poll() is None:
                self.effective = self.ask("facts")["effective"]

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
            self._send({"method": "close"})
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._unsent.put(None)
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.kill()
        self.close()
