"""The child process that hosts one engine with one artifact: `python -m slmops.engines._worker`.

Requests come as JSON lines on standard input, answers go as JSON lines to what was standard output; the engine's own
printing is sent to standard error. Arrays cross as .npy files. A closed standard input ends the process at once, so no
worker outlives its owner; `{"cancel": true}` ends a generation.

Beside them, requests come and go through the session's flow (engines.Flow): `{"add": NUMBER, ...}` (see Server.add) and
`{"drop": NUMBER}` have no answer of their own; what comes of all of them goes out in lines `{"news": [...]}`, in between
other answers.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

import numpy as np

from slmops.core import plugins
from slmops.core.errors import EngineCrashed, EngineFailed, SlmopsError, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Constraint, Flow, News, Options, Sampling, Session, _flow, _words
from slmops.ops.numpy import log_softmax

CHUNK = 64
"""Tokens of a text that are computed at once for its quality: OpenVINO's attention takes keys and values of one call as they
are, and as its KV cache holds them only in later calls, so that one call would hide what the cache loses."""


class Server:
    """Answers requests one after the other over an opened session."""

    def __init__(self, session: Session, module: ModuleType, context: int, answer: Callable[[dict[str, Any]], None]) -> None:
        self._session, self._module, self._context, self._answer = session, module, context, answer
        self.cancelled = threading.Event()
        self._flying: dict[int, int] = {}
        """Tokens of the prompts of the requests in flight."""
        self._made: Flow | None = None

    @property
    def flow(self) -> Flow:
        if self._made is None:
            can: frozenset[str] = self._module.CAN
            session: Any = self._session
            self._made = session.flow() if "parallel" in can else _flow.Turns(session, "turns" in can)
        return self._made

    def ready(self) -> None:
        """What is wrong with the flow is said now, and the first request finds it made."""
        self.flow.wake()

    def wake(self) -> None:
        """From any thread: a step that waits returns."""
        if self._made is not None:
            self._made.wake()

    def close(self) -> None:
        """Let go of what is open, so that another can be."""
        self._session.close()
        del self._session
        gc.collect()

    def facts(self) -> dict[str, Any]:
        return {"effective": dict(self._session.effective)}

    def logits(self, ids: list[int], chunks: list[int], out: str) -> dict[str, Any]:
        """Logits of all positions into a .npy file."""
        values = self._session.logits(ids, chunks)
        np.save(out, values)
        return {"shape": list(values.shape)}

    def compare(self, ids: list[int], chunks: list[int], reference: str) -> dict[str, Any]:
        """Distance of the engine's logits from a reference's [len(ids), vocab]; only sums leave the process."""
        expected = np.load(reference, mmap_mode="r", allow_pickle=False)
        actual = self._session.logits(ids, chunks)
        if actual.shape[0] != expected.shape[0] or actual.shape[1] < expected.shape[1]:
            raise EngineFailed(f"the engine gave logits {list(actual.shape)}, expected {list(expected.shape)}")
        return distance(actual, expected)

    def quality(self, sequences: list[list[int]], reference: str) -> dict[str, Any]:
        """Beside reference logits of several sequences, stacked in one .npy file, for each position: KL divergence from the
        reference and whether both find the same token likeliest; for each but the last of a sequence, both losses."""
        expected = np.load(reference, mmap_mode="r", allow_pickle=False)
        found: dict[str, list[Any]] = {"kl": [], "agreed": [], "loss": [], "reference_loss": []}
        row = 0
        for ids in sequences:
            chunks = [min(CHUNK, len(ids) - start) for start in range(0, len(ids), CHUNK)]
            q = log_softmax(self._session.logits(ids, chunks)[:, : expected.shape[1]])
            p = log_softmax(np.asarray(expected[row : row + len(ids)], np.float32))
            found["kl"] += np.sum(np.exp(p) * (p - q), axis=-1).astype(float).tolist()
            found["agreed"] += (p.argmax(-1) == q.argmax(-1)).tolist()
            for key, logs in (("loss", q), ("reference_loss", p)):
                found[key] += (-logs[np.arange(len(ids) - 1), ids[1:]]).astype(float).tolist()
            row += len(ids)
        return found

    def likelihoods(self, pairs: list[list[list[int]]]) -> dict[str, Any]:
        """For each context and continuation (both in ids, neither empty): the continuation's log-likelihood in nats after
        the context, and whether greedy decoding would say it."""
        found: list[list[float | bool]] = []
        known: list[int] = []
        for context, rest in pairs:
            if not context or not rest:
                raise UsageError("a context and a continuation have a token each at least")
            ids = [*context, *rest[:-1]]
            if ids != known:  # choices of one token each differ in nothing that goes in
                known, logits = ids, self._session.logits(ids, [len(ids)])
            last = logits[-len(rest) :]
            logs = log_softmax(last)[np.arange(len(rest)), rest]
            found.append([float(np.sum(logs, dtype=np.float64)), bool((last.argmax(-1) == rest).all())])
        return {"found": found}

    def encode(self, texts: list[str]) -> dict[str, Any]:
        return {"ids": [list(self._session.encode(text)) for text in texts]}

    def decode(self, sequences: list[list[int]]) -> dict[str, Any]:
        return {"texts": [self._session.decode(ids) for ids in sequences]}

    def embed(self, text: str, bos: int | None) -> dict[str, Any]:
        """A vector of length 1 for a text."""
        session: Any = self._session
        ids = _words.begun(list(self._session.encode(text)), bos)
        _words.fit(Sampling(max_tokens=1), len(ids), self._context)
        vector = np.asarray(session.embed(ids), np.float64)
        if not np.isfinite(vector).all():
            raise EngineFailed("the engine's embedding holds NaN or infinity", "try another precision")
        return {"vector": (vector / (np.linalg.norm(vector) or 1.0)).tolist(), "tokens": len(ids)}

    def render(self, conversations: list[list[dict[str, Any]]]) -> dict[str, Any]:
        return {"texts": [self._session.render(messages) for messages in conversations]}

    def generate(self, ids: list[int], sampling: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One event a token: its id, the text that became certain with it, and the moment it came."""
        options = _sampling(sampling)
        tokens = self._session.generate(ids, options)
        text = _flow.Text(self._session.decode)
        try:
            for token in tokens:
                now = time.perf_counter()
                yield {"token": token, "text": text.feed(token), "at": now}
                if self.cancelled.is_set():
                    break
        finally:
            close = getattr(tokens, "close", None)
            if close is not None:
                close()
        if rest := text.rest():
            yield {"token": None, "text": rest, "at": time.perf_counter()}

    def add(self, which: int, ids: list[int] | None, text: str, bos: int | None, sampling: dict[str, Any]) -> None:
        """A request into the flow: by ids, or by text, which a beginning-of-text token is put before where `bos` says so.
        What is wrong with it is news of it."""
        try:
            if ids is None:
                ids = _words.begun(list(self._session.encode(text)), bos)
            self.flow.add(which, ids, _words.fit(_sampling(sampling), len(ids), self._context))
            self._flying[which] = len(ids)
        except Exception as error:
            self._told([News(which, error=_fault(error))])

    def drop(self, which: int) -> None:
        if self._flying.pop(which, None) is not None:
            self.flow.cancel(which)

    @property
    def busy(self) -> bool:
        return bool(self._flying)

    def step(self) -> None:
        """One step of the flow, and what came of it."""
        try:
            self._told(self.flow.step())
        except Exception as error:
            self._told([News(which, error=_fault(error)) for which in self._flying])

    def _told(self, news: Sequence[News]) -> None:
        """Plain values for what is not as it mostly is; the moment is the step's."""
        rows: list[dict[str, Any]] = []
        for one in news:
            row: dict[str, Any] = {"which": one.which}
            if one.cached is not None:
                row["prompt"], row["cached"] = self._flying.get(one.which, 0), one.cached
            if one.text:
                row["text"] = one.text
            if one.tokens:
                row["tokens"] = one.tokens
            if one.logprobs:
                row["logprobs"] = [(token.text, token.logprob, token.top) for token in one.logprobs]
            if one.end is not None:
                row["end"] = one.end
            if one.error is not None:
                row["error"] = _said(one.error)
            if one.end is not None or one.error is not None:
                self._flying.pop(one.which, None)
            rows.append(row)
        if rows:
            self._answer({"news": rows, "at": time.perf_counter()})
        if any(isinstance(one.error, EngineCrashed) for one in news):
            os._exit(1)  # a server below that is no more: the owner starts all of it again

    def memory(self) -> dict[str, Any]:
        """Resident bytes now and at the peak."""
        return memory()


def memory() -> dict[str, Any]:
    """Resident bytes now and at the peak, of this process and of the servers that it started."""
    import psutil

    info = psutil.Process().memory_info()
    # ru_maxrss outlives exec, so a worker would report its owner's peak where the owner was the larger.
    peak = getattr(info, "peak_wset", None) or _high_water(os.getpid())
    if not peak:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    resident = info.rss
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            now = child.memory_info().rss
            resident, peak = resident + now, peak + max(now, _high_water(child.pid))
    return {"resident": resident, "peak": peak}


def _high_water(pid: int) -> int:
    """VmHWM of another process, where the system tells it; else 0."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def distance(actual: Floats, expected: Floats) -> dict[str, Any]:
    """Relative error ||actual - expected|| / ||expected||, greatest difference, top-1 agreement, mean KL divergence."""
    error = norm = divergence = 0.0
    worst, agreed = 0.0, 0
    for start in range(0, len(expected), 64):
        b = np.asarray(expected[start : start + 64], np.float32)
        a = np.asarray(actual[start : start + 64, : b.shape[1]], np.float32)
        if not np.isfinite(a).all():
            raise EngineFailed("the engine's logits hold NaN or infinity", "try --device cpu, or another precision")
        error += float(np.square((a - b).astype(np.float64)).sum())
        norm += float(np.square(b.astype(np.float64)).sum())
        worst = max(worst, float(np.abs(a - b).max()))
        agreed += int((a.argmax(-1) == b.argmax(-1)).sum())
        p, q = log_softmax(b), log_softmax(a)
        divergence += float((np.exp(p) * (p - q)).sum())
    return {
        "relative_error": (error / norm) ** 0.5 if norm else float("inf"),
        "max_abs": worst,
        "top1": agreed / len(expected),
        "kl": max(0.0, divergence / len(expected)),
        "positions": len(expected),
    }


def _sampling(fields: dict[str, Any]) -> Sampling:
    """As it was before it was JSON."""
    constraint = fields.get("constraint")
    return Sampling(
        **{
            **fields,
            "stop_ids": tuple(fields.get("stop_ids", ())),
            "constraint": Constraint(**constraint) if constraint else None,
        }
    )


def _fault(error: BaseException) -> SlmopsError:
    """Whatever an engine's binding raises is an answer for the owner, not the end of the worker."""
    return error if isinstance(error, SlmopsError) else EngineFailed(f"{type(error).__name__}: {error}")


def _said(error: SlmopsError) -> dict[str, str]:
    return {"kind": type(error).__name__, "fault": str(error), "cure": error.cure}


def _read(requests: queue.SimpleQueue[dict[str, Any]], source: TextIO, opened: list[Server]) -> None:
    for line in source:
        request = json.loads(line)
        if request.get("cancel"):
            for server in opened:
                server.cancelled.set()
            continue
        requests.put(request)
        for server in opened:
            server.wake()
    # The owner is gone: native code may hold the main thread for long, so leave without ceremony.
    os._exit(0)


def main() -> None:
    """Serve until told to close or until standard input ends."""
    # OpenVINO's telemetry forks this process to report its use; without the module, OpenVINO's own stub takes its place.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides when a Ctrl-C ends a worker
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    opened: list[Server] = []
    threading.Thread(target=_read, args=(requests, sys.stdin, opened), daemon=True).start()

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    def asked(method: str, params: dict[str, Any]) -> None:
        if method == "open":
            module = plugins.load("engines", params["engine"])
            options = Options(**params["options"])
            while opened:
                opened.pop().close()
            opened.append(Server(module.open(Path(params["folder"]), options), module, options.context, answer))
            if options.reuse:
                opened[0].ready()
            answer({"result": {**opened[0].facts(), **memory()}})
        elif method == "generate":
            opened[0].cancelled.clear()
            for event in opened[0].generate(**params):
                answer({"event": event})
            # Some engines choose a device or a precision only when they first compute.
            answer({"result": opened[0].facts()})
        else:
            answer({"result": getattr(opened[0], method)(**params)})

    while True:
        # All that was asked before the next step: what is added together is computed together.
        while requests.qsize() or not (opened and opened[0].busy):
            request = requests.get()
            if "add" in request:
                opened[0].add(request.pop("add"), **request)
            elif "drop" in request:
                opened[0].drop(request["drop"])
            elif request["method"] == "close" or (request["method"] != "open" and not opened):
                _leave(answers, opened)
            else:
                try:
                    asked(request["method"], request.get("params", {}))
                except (Exception, SystemExit) as error:
                    answer({"error": _said(_fault(error))})
        opened[0].step()


def _leave(answers: TextIO, opened: list[Server]) -> NoReturn:
    answers.flush()
    with contextlib.suppress(Exception):
        for server in opened:
            server.close()
    os._exit(0)  # engines' own exit handlers hang or crash too often to be waited for


if __name__ == "__main__":
    main()
