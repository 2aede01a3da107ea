#!/usr/bin/env python3
"""What does the server cost, over the engine itself and alone?

    python bench/serve.py stub                       # no engine: tokens/s, requests/s, 1,000 streams, memory, first byte
    python bench/serve.py peers GGUF_FOLDER [OPENVINO_FOLDER] [--at-once 1,16,64]   # beside llama-server and OpenVINO
    python bench/serve.py engines --gguf FOLDER --openvino FOLDER --onnx FOLDER [--at-once 1,4,16,64]   # the fastest of them
    python bench/serve.py first --gguf FOLDER --openvino FOLDER --onnx FOLDER   # nothing is loaded: how late is the first

`stub`: the server and its worker on one core, the load on another (Linux: taskset). The engine is bench/stubengine.py.
`peers`: turn by turn, the same requests to a native llama-server (on PATH) and to `slmops serve` with a llama-server of that
program as its worker, each request over a connection of its own; to OpenVINO's ContinuousBatchingPipeline in a loop of its
own and to `slmops serve` on the same folder. Ratios are of neighbouring turns. Times to the first token and gaps between
tokens are the client's; throughput is tokens over the time from the first request to the last token. The prompt differs
from request to request, so no prefix cache has a part in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENTRY = "[slmops.engines]\nstub = stubengine\n"


@dataclass
class Taken:
    """One request, as its client saw it; seconds of time.perf_counter."""

    sent: float = 0.0
    stamps: list[float] = field(default_factory=list)
    tokens: int = 0
    fault: str = ""


def post(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(data)}\r\n\r\n".encode() + data


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any]) -> Taken:
    """One completion over a connection that stays open."""
    taken = Taken(time.perf_counter())
    writer.write(post(body))
    seen = b""
    while not seen.endswith(b"\r\n0\r\n\r\n") if body["stream"] else not (b"\r\n\r\n" in seen and whole(seen)):
        more = await reader.read(1 << 18)
        if not more:
            taken.fault = f"cut off after {len(seen)} bytes"
            return taken
        seen += more
        if body["stream"] and b"data: {" in more:
            taken.stamps.append(time.perf_counter())
    taken.stamps = taken.stamps or [time.perf_counter()]
    if not seen.startswith(b"HTTP/1.1 200"):
        taken.fault = seen[:300].decode(errors="replace")
        return taken
    usage = seen.rfind(b'"completion_tokens":')
    taken.tokens = int(seen[usage + 20 :].split(b",")[0].split(b"}")[0]) if usage >= 0 else 0
    if not taken.tokens:
        taken.fault = "no usage"
    return taken


def whole(seen: bytes) -> bool:
    head, _, rest = seen.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    return len(rest) >= int(length or 0)


async def load(
    port: int, at_once: int, requests: int, tokens: int, stream: bool, prompt: str, keep: bool, model: str = "m"
) -> list[Taken]:
    """`requests` in all, `at_once` in flight."""
    waiting, found = list(range(requests)), list[Taken]()

    async def client() -> None:
        # llama-server closes connections after a stream: where it is beside, each request has its own, here and there.
        kept = None
        while waiting:
            number = waiting.pop()
            body = {"model": model, "prompt": f"{number} {prompt}", "max_tokens": tokens, "temperature": 0, "stream": stream}
            if stream:
                body["stream_options"] = {"include_usage": True}
            began = time.perf_counter()
            reader, writer = kept or await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
            found.append(await ask(reader, writer, body))
            found[-1].sent = began
            kept = (reader, writer) if keep and not found[-1].fault else None
            if kept is None:
                writer.close()
        if kept is not None:
            kept[1].close()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return found


def figures(taken: list[Taken]) -> dict[str, float]:
    """Of one load: rates, and percentiles in milliseconds."""
    good = [one for one in taken if not one.fault]
    if not good:
        raise SystemExit(f"every request failed: {taken[0].fault}")
    span = max(one.stamps[-1] for one in good) - min(one.sent for one in good)
    first = sorted(1e3 * (one.stamps[0] - one.sent) for one in good)
    each = [1e3 * (one.stamps[-1] - one.stamps[0]) / (one.tokens - 1) for one in good if one.tokens > 1]
    return {
        "requests_s": len(good) / span,
        "tokens_s": sum(one.tokens for one in good) / span,
        "ttft_p50": statistics.median(first),
        "ttft_p99": first[min(len(first) - 1, int(0.99 * len(first)))],
        "itl": statistics.median(each) if each else 0.0,
        "failed": len(taken) - len(good),
    }


@contextlib.contextmanager
def process(command: list[str], core: int | None = None, **more: str) -> Iterator[subprocess.Popen[str]]:
    pinned = ["taskset", "-c", str(core), *command] if core is not None else command
    path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **more}
    with subprocess.Popen(pinned, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=20)
            child.kill()


@contextlib.contextmanager
def served(folder: Path, words: list[str], core: int | None = None, **more: str) -> Iterator[tuple[int, int]]:
    """`slmops serve`: (port, process id)."""
    command = [sys.executable, "-m", "slmops", "serve", f"m={folder}", "--port", "0", "--json", *words]
    with process(command, core, **more) as child:
        assert child.stdout is not None
        yield int(json.loads(child.stdout.readline())["url"].rsplit(":", 1)[1]), child.pid


def resident(pid: int) -> int:
    import psutil

    one = psutil.Process(pid)
    return int(sum(each.memory_info().rss for each in [one, *one.children(recursive=True)]))


def run(
    port: int, at_once: int, requests: int, tokens: int, stream: bool = True, prompt: str = "a prompt"
) -> dict[str, float]:
    return figures(asyncio.run(load(port, at_once, requests, tokens, stream, prompt, keep=True)))


async def idle(port: int, pid: int, count: int) -> dict[str, float]:
    """So many streams that wait for their second token."""
    before, writers = resident(pid), []
    request = post({"model": "m", "prompt": "idle", "max_tokens": 1000, "stream": True})
    failed = 0
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        failed += not (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
        writers.append(writer)
    await asyncio.sleep(0.5)
    after = resident(pid)
    for writer in writers:
        writer.close()
    return {"streams": count, "failed": failed, "kB_each": (after - before) / count / 1e3}


def start(folder: Path, words: list[str], **more: str) -> dict[str, float]:
    """Milliseconds from the start of a process to the first byte of /health/live, and until it serves; the best of five."""
    alive, serves = [], []
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "slmops", "serve", f"m={folder}", "--port", str(port), "--json", *words]
        began = time.perf_counter()
        with process(command, None, **more) as child:
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as asked:
                    asked.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    assert asked.recv(100).startswith(b"HTTP/1.1 200")
                    break
                time.sleep(0.001)
            alive.append(1e3 * (time.perf_counter() - began))
            assert child.stdout is not None and child.stdout.readline()
            serves.append(1e3 * (time.perf_counter() - began))
    return {"health_ms": min(alive), "serves_ms": min(serves)}


def stub(o: argparse.Namespace) -> dict[str, Any]:
    from slmops import compile as compiler
    from slmops.source import load as source

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        compiler.convert(source(HERE.parent / "samples" / "home"), ["gguf"], "q8", work / "out", verify=False)
        (work / "plugin" / "slmops_stub-0.dist-info").mkdir(parents=True)
        (work / "plugin" / "slmops_stub-0.dist-info" / "entry_points.txt").write_text(ENTRY)
        shutil.copy(HERE / "stubengine.py", work / "plugin")
        path = os.pathsep.join([str(HERE.parent / "src"), str(work / "plugin")])
        words = ["--engine", "stub", "--parallel", "1000", "--queue", "1000", "--context", "100000"]
        found["start"] = start(work / "out", words, PYTHONPATH=path)
        with served(work / "out", words, core=0, PYTHONPATH=path) as (port, pid):
            os.sched_setaffinity(0, {1})
            run(port, 1, 4, 8)
            found["idle"] = asyncio.run(idle(port, pid, 1000))
        with served(work / "out", words, core=0, PYTHONPATH=path) as (port, pid):
            run(port, 4, 8, 8)
            for at_once in (1, 16, 64, 256):
                found[f"streams_{at_once}"] = run(port, at_once, max(4, 2 * at_once), 1000)
            for at_once in (1, 16, 64):
                found[f"requests_{at_once}"] = run(port, at_once, 200 + 20 * at_once, 1, stream=False)
            found["streams_1000"] = run(port, 1000, 1000, 20)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("stub")
    peers = verbs.add_parser("peers")
    peers.add_argument("gguf", type=Path)
    peers.add_argument("openvino", type=Path, nargs="?")
    peers.add_argument("--at-once", default="1,16,64")
    peers.add_argument("--tokens", type=int, default=64)
    peers.add_argument("--rounds", type=int, default=5)
    peers.add_argument("--requests", type=int, help="of a turn; twice as many as are at once, and 8 at least")
    peers.add_argument("--context", type=int, default=256)
    first, engines = verbs.add_parser("first"), verbs.add_parser("engines")
    for one in (first, engines):
        for form in ("gguf", "openvino", "onnx"):
            one.add_argument(f"--{form}", type=Path, metavar="FOLDER")
        one.add_argument("--rounds", type=int, default=5)
    engines.add_argument("--at-once", default="1,4,16,64")
    engines.add_argument("--tokens", type=int, default=32)
    for one in verbs.choices.values():
        one.add_argument("--json", type=Path, metavar="FILE")
    o = parser.parse_args()
    if o.verb == "stub":
        found = stub(o)
    elif o.verb in ("first", "engines"):
        import serveload

        found = serveload.first(o) if o.verb == "first" else serveload.engines(o)
    else:
        import servepeers

        found = servepeers.peers(o)
    for name, values in found.items():
        shown = {key: round(value, 2) for key, value in values.items()} if isinstance(values, dict) else round(values, 1)
        print(f"{name:14} {shown}")
    if o.json:
        o.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
