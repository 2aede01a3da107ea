"""bench/serve.py peers: the same requests to the engines' own servers and to `slmops serve`, turn by turn."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serve import HERE, Taken, figures, load, process, served

PROMPT = "Once upon a time there was a small house at the end of a long road, and in it lived somebody who "
Turn = Callable[[int, int], dict[str, float]]
"""(requests at once, requests) -> figures."""


@contextlib.contextmanager
def native(file: Path, at_once: int, o: argparse.Namespace) -> Iterator[int]:
    """A llama-server as engines/llamaserver.py starts it; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = shutil.which("llama-server") or sys.exit("there is no llama-server on PATH")
    command = [
        program,
        "--model",
        str(file),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-webui",
        "--jinja",
        "--no-slots",
    ]
    command += ["--ctx-size", str(o.context * at_once), "--parallel", str(at_once), "--threads", str(os.cpu_count())]
    command += ["--cache-ram", "256"]
    # As the workers of slmops have it: on a busy machine, threads that spin cost more than all that is measured here.
    with process(command, GOMP_SPINCOUNT="2000") as child:
        while child.poll() is None:
            with contextlib.suppress(OSError, urllib.error.URLError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200:
                    break
            time.sleep(0.05)
        yield port


def over(port: int, o: argparse.Namespace) -> Turn:
    """Turns over HTTP. Every request has a prompt of its own."""
    turn = itertools.count()

    def one(at_once: int, requests: int) -> dict[str, float]:
        prompt = f"{next(turn)} {PROMPT}"
        return figures(asyncio.run(load(port, at_once, requests, o.tokens, True, prompt, keep=False)))

    return one


PIPELINE = """
import json, sys, time
sys.modules["openvino_telemetry"] = None
import numpy, openvino, openvino_genai as genai
folder, tokens = sys.argv[1], int(sys.argv[2])
scheduler = genai.SchedulerConfig()
# As it is served: prefixes are kept, which is right only where prompts may be split; and no step reads much of one.
scheduler.enable_prefix_caching = scheduler.dynamic_split_fuse = True
scheduler.max_num_batched_tokens = 512
pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {})
config = genai.GenerationConfig()
config.max_new_tokens, config.ignore_eos, config.apply_chat_template = tokens, True, False
print("ready", flush=True)
count = 0
for line in sys.stdin:
    at_once, requests, prompt = json.loads(line)
    waiting, flying, told = list(range(requests)), {}, []
    while waiting or flying:
        while waiting and len(flying) < at_once:
            number, count = waiting.pop(), count + 1
            began = time.perf_counter()
            ids = pipeline.get_tokenizer().encode(f"{number} {prompt}", add_special_tokens=False).input_ids
            flying[number] = (began, [], pipeline.add_request(count, ids, config))
        pipeline.step()
        now = time.perf_counter()
        for number, (began, stamps, handle) in list(flying.items()):
            while handle.can_read():
                for part in handle.read().values():
                    stamps += [now] * len(part.generated_ids)
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                told.append((began, stamps))
                del flying[number]
    print(json.dumps(told), flush=True)
"""


@contextlib.contextmanager
def pipeline(folder: Path, o: argparse.Namespace) -> Iterator[Turn]:
    """OpenVINO's own continuous batching, without text: tokens are read and stamped."""
    command, turn = [sys.executable, "-c", PIPELINE, str(folder), str(o.tokens)], itertools.count()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        stdin, stdout = child.stdin, child.stdout
        assert stdout.readline().strip() == "ready"

        def one(at_once: int, requests: int) -> dict[str, float]:
            stdin.write(json.dumps([at_once, requests, f"{next(turn)} {PROMPT}"]) + "\n")
            stdin.flush()
            return figures([Taken(began, stamps, len(stamps)) for began, stamps in json.loads(stdout.readline())])

        yield one
        stdin.close()


def pairs(a: Turn, b: Turn, at_once: int, o: argparse.Namespace) -> dict[str, Any]:
    """b beside a: medians of the ratios and differences of neighbouring turns, after one that is not counted."""
    import statistics

    requests = o.requests or max(8, 2 * at_once)
    a(at_once, at_once), b(at_once, at_once)
    rows = []
    for number in range(o.rounds):
        one, other = (a, b) if number % 2 == 0 else (b, a)
        first, second = one(at_once, requests), other(at_once, requests)
        rows.append((first, second) if number % 2 == 0 else (second, first))
    ratios = sorted(y["tokens_s"] / x["tokens_s"] for x, y in rows)

    def middle(key: str, of: Callable[[float, float], float]) -> float:
        return statistics.median(of(x[key], y[key]) for x, y in rows)

    return {
        "tokens_s": statistics.median(x["tokens_s"] for x, _ in rows),
        "ratio": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
        "ttft_p50": statistics.median(x["ttft_p50"] for x, _ in rows),
        "ttft_p50_added": middle("ttft_p50", lambda x, y: y - x),
        "ttft_p99_added": middle("ttft_p99", lambda x, y: y - x),
        "itl_ratio": middle("itl", lambda x, y: y / x if x else 0.0),
        "failed": sum(x["failed"] + y["failed"] for x, y in rows),
    }


def peers(o: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    path = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "src")])}
    for at_once in map(int, o.at_once.split(",")):
        words = ["--parallel", str(at_once), "--queue", "1000", "--context", str(o.context)]
        file = next(o.gguf.glob("*.gguf"))
        with (
            native(file, at_once, o) as port,
            served(o.gguf, [*words, "--engine", "llamaserver"], None, **path) as (ours, _),
        ):
            found[f"llama-server {at_once}"] = pairs(over(port, o), over(ours, o), at_once, o)
            print(at_once, found[f"llama-server {at_once}"], flush=True)
        if o.openvino is not None:
            words += ["--engine", "openvino_paged"]
            with pipeline(o.openvino, o) as own, served(o.openvino, words, None, **path) as (ours, _):
                found[f"openvino {at_once}"] = pairs(own, over(ours, o), at_once, o)
                print(at_once, found[f"openvino {at_once}"], flush=True)
    return found
