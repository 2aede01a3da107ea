"""The child process that hosts one engine with one artifact: `python -m slmops.engines._worker`.

Requests come as JSON lines on standard input, answers go as JSON lines to what was standard output; the engine's own
printing is sent to standard error. Arrays cross as .npy files. A closed standard input ends the process at once, so no
worker outlives its owner; `{"cancel": true}` ends a generation.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from slmops.core import plugins
from slmops.core.errors import EngineFailed, SlmopsError, UsageError
from slmops.core.tensor import Floats
from slmops.engines import Options, Sampling, Session
from slmops.ops.numpy import log_softmax

CHUNK = 64
"""Tokens of a text that are computed at once for its quality: OpenVINO's attention takes keys and values of one call as they
are, and as its KV cache holds them only in later calls, so that one call would hide what the cache loses."""
HELD_BACK = 8
"""Tokens re-decoded with each new one, so that characters that span tokens come out whole."""


class Server:
    """Answers requests one after the other over an opened session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.cancelled = threading.Event()

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

    def render(self, conversations: list[list[dict[str, Any]]]) -> dict[str, Any]:
        return {"texts": [self._session.render(messages) for messages in conversations]}

    def generate(self, ids: list[int], sampling: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One event a token: its id, the text that became certain with it, and the moment it came."""
        options = Sampling(**{**sampling, "stop_ids": tuple(sampling.get("stop_ids", ()))})
        tokens = self._session.generate(ids, options)
        made: list[int] = []
        sent = 0
        try:
            for token in tokens:
                now = time.perf_counter()
                made.append(token)
                text, sent = self._delta(made, sent, last=False)
                yield {"token": token, "text": text, "at": now}
                if self.cancelled.is_set():
                    break
        finally:
            close = getattr(tokens, "close", None)
            if close is not None:
                close()
        text, sent = self._delta(made, sent, last=True)
        if text:
            yield {"token": None, "text": text, "at": time.perf_counter()}

    def serve(self, prompts: list[list[int]], sampling: dict[str, Any], at_once: int) -> Iterator[dict[str, Any]]:
        """One event a token of any of the prompts, and one without a token where a request begins."""
        options = Sampling(**{**sampling, "stop_ids": tuple(sampling.get("stop_ids", ()))})
        served: Any = self._session
        with contextlib.closing(served.serve(prompts, options, at_once)) as events:
            for which, token in events:
                yield {"which": which, "token": token, "at": time.perf_counter()}
                if self.cancelled.is_set():
                    return

    def _delta(self, made: Sequence[int], sent: int, last: bool) -> tuple[str, int]:
        """The text that became certain with the newest token, and up to which token text has been sent."""
        before = max(0, sent - HELD_BACK)
        whole, known = self._session.decode(made[before:]), self._session.decode(made[before:sent]) if sent else ""
        if whole.endswith("\ufffd") and not last and len(made) - sent < HELD_BACK:
            return "", sent
        return whole[len(known) :], len(made)

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


def _read(requests: queue.Queue[dict[str, Any] | None], source: TextIO, cancelled: list[threading.Event]) -> None:
    for line in source:
        request = json.loads(line)
        if request.get("cancel"):
            for event in cancelled:
                event.set()
        else:
            requests.put(request)
    # The owner is gone: native code may hold the main thread for long, so leave without ceremony.
    os._exit(0)


def main() -> None:
    """Serve until told to close or until standard input ends."""
    # OpenVINO's telemetry forks this process to report its use; without the module, OpenVINO's own stub takes its place.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides when a Ctrl-C ends a worker
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    cancelled: list[threading.Event] = []
    threading.Thread(target=_read, args=(requests, sys.stdin, cancelled), daemon=True).start()

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    server: Server | None = None
    while (request := requests.get()) is not None:
        method, params = request["method"], request.get("params", {})
        try:
            if method == "open":
                engine = plugins.load("engines", params["engine"])
                server = Server(engine.open(Path(params["folder"]), Options(**params["options"])))
                cancelled.append(server.cancelled)
                answer({"result": {**server.facts(), **memory()}})
            elif method == "close" or server is None:
                break
            elif method in ("generate", "serve"):
                server.cancelled.clear()
                for event in getattr(server, method)(**params):
                    answer({"event": event})
                # Some engines choose a device or a precision only when they first compute.
                answer({"result": server.facts()})
            else:
                answer({"result": getattr(server, method)(**params)})
        except SlmopsError as error:
            answer({"error": {"kind": type(error).__name__, "fault": str(error), "cure": error.cure}})
        except (Exception, SystemExit) as error:
            # Whatever an engine's binding raises is an answer for the owner, not the end of the worker.
            answer({"error": {"kind": "EngineFailed", "fault": f"{type(error).__name__}: {error}", "cure": ""}})
    answers.flush()
    with contextlib.suppress(Exception):
        if server is not None:
            server._session.close()
    os._exit(0)  # engines' own exit handlers hang or crash too often to be waited for


if __name__ == "__main__":
    main()
