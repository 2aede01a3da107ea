#!/usr/bin/env python3
"""Does drafting from the prompt itself (prompt lookup, n-gram speculation) make decoding faster?

    python bench/speculative.py openvino FOLDER [--prompts FILE.jsonl] [--repeat 5] [--json FILE]
    python bench/speculative.py llamaserver FOLDER.gguf ...              # the llama-server on PATH

FOLDER is an artifact of slmops. The engine is open with and without at once; prompts take turns between them and the order
alternates. Prompts: lines of {"messages": [...]} (samples/home's own), and one that asks to copy what it holds twice.
No prompt is asked twice, for some remember answers from one request to the next. --endless: for a model of random weights,
whose answers soon repeat themselves, so that many drafts hold: what can be had at best in its shape. A ratio above 1 says
that drafting is faster. "same" is the share of answers that are token for token those without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness

COPIED = (
    "the rehearsal was moved from noon to half past seven in the old theatre behind the station, bring both keys and a lamp"
)
TOKENS = 64
Ask = Callable[[list[int]], tuple[list[int], float]]


def openvino_asks(folder: Path, threads: int) -> dict[str, Ask]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks
    import numpy as np
    import openvino
    import openvino_genai as genai

    def opened(**more: Any) -> Ask:
        pipe = genai.LLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads, **more)
        config = genai.GenerationConfig(max_new_tokens=TOKENS, do_sample=False, apply_chat_template=False)
        config.eos_token_id, config.ignore_eos = max(END[0], 0), END[0] < 0
        if more.get("prompt_lookup"):
            config.num_assistant_tokens, config.max_ngram_size = 5, 3

        def ask(ids: list[int]) -> tuple[list[int], float]:
            array = np.array([ids], np.int64)
            inputs = genai.TokenizedInputs(openvino.Tensor(array), openvino.Tensor(np.ones_like(array)))
            began = time.perf_counter()
            made = pipe.generate(inputs, config).tokens[0]
            return [int(token) for token in made], time.perf_counter() - began

        return ask

    return {
        "without": opened(ATTENTION_BACKEND="PA"),
        "prompt lookup": opened(prompt_lookup=True),
        "without, stateful": opened(ATTENTION_BACKEND="SDPA"),
    }


@contextlib.contextmanager
def server(file: Path, threads: int, *more: str) -> Iterator[Ask]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["llama-server", "--model", str(file), "--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
    words += ["--parallel", "1", "--ctx-size", "1024", "--no-webui", "--device", "none", *more]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **BRIEF}
    ) as process:
        url = f"http://127.0.0.1:{port}"

        def ask(ids: list[int]) -> tuple[list[int], float]:
            body = {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False, "return_tokens": True}
            body["ignore_eos"] = END[0] < 0
            request = urllib.request.Request(url + "/completion", json.dumps(body).encode())
            began = time.perf_counter()
            with urllib.request.urlopen(request, timeout=600) as answer:
                made = json.load(answer)
            return made["tokens"], time.perf_counter() - began

        try:
            for _ in range(600):
                with contextlib.suppress(OSError), urllib.request.urlopen(url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
                time.sleep(0.1)
            yield ask
        finally:
            process.kill()


BRIEF = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000")}
"""Or else the threads of idle servers spin in the way of the busy one, as in engines/_gguf.py."""
END = [-1]
DRAFTS = {
    "ngram-simple": ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "5"),
    "ngram-map-k": ("--spec-type", "ngram-map-k", "--spec-ngram-map-k-size-n", "3", "--spec-ngram-map-k-size-m", "5"),
}


def measure(o: argparse.Namespace) -> dict[str, Any]:
    from slmops import run
    from slmops.engines import Options

    artifact = run.Artifact.open(o.artifact)
    END[0] = -1 if o.endless else artifact.eos[0]
    lines = [
        json.loads(line) for line in o.prompts.read_text(encoding="utf-8").splitlines()[:: o.every][: o.most * o.repeat]
    ]
    lines = [] if o.endless else lines
    texts = {"own prompts": [artifact.prompt(line["messages"]) for line in lines]}
    again = [f"{COPIED} for number {turn}" for turn in range(2 * o.repeat)]
    asked = [f"Message to Elena: {text}. Again: {text}." for text in again]
    texts["copying"] = [artifact.prompt([{"role": "user", "content": text}]) for text in asked]
    with run.open_worker(
        artifact, {"openvino": "openvino", "llamaserver": "llamaserver"}[o.engine], Options(context=512)
    ) as worker:
        prompts = {kind: [run.tokens_of(worker, artifact, text) for text in some] for kind, some in texts.items()}
    report: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if o.engine == "openvino":
            asks = openvino_asks(o.artifact, o.threads)
        else:
            if shutil.which("llama-server") is None:
                raise SystemExit("error: there is no llama-server on PATH")
            (file,) = o.artifact.glob("*.gguf")
            asks = {"without": stack.enter_context(server(file, o.threads))}
            asks |= {name: stack.enter_context(server(file, o.threads, *words)) for name, words in DRAFTS.items()}
        rows = []
        for kind, some in prompts.items():
            if len(some) < o.repeat:
                continue
            seen: dict[str, list[float]] = {name: [] for name in asks}
            same = dict.fromkeys(asks, 0)
            for ask in asks.values():
                ask(some[0])
            made = 0
            for turn in range(o.repeat):
                spent = dict.fromkeys(asks, 0.0)
                for ids in some[turn :: o.repeat]:
                    answers = {}
                    for name in list(asks)[:: -1 if turn % 2 else 1]:
                        answers[name], seconds = asks[name](ids)
                        spent[name] += seconds
                    made += len(answers["without"])
                    for name in asks:
                        same[name] += answers[name] == answers["without"]
                for name, seconds in spent.items():
                    seen[name].append(seconds)
            each = made / len(some)
            for name in asks:
                ratio = harness.ratio(seen["without"], seen[name])
                rate = made / o.repeat / harness.median(seen[name])
                share = same[name] / len(some)
                rows.append([f"{kind}: {name}", f"{each:.0f}", f"{rate:.0f}", harness.show(ratio), f"{share:.0%}"])
                report.setdefault(kind, {})[name] = {"seconds": seen[name], "faster": ratio, "same": share}
    print(harness.table([o.engine, "tokens an answer", "tokens/s, prompt included", "times as fast", "same"], rows))
    return {"machine": harness.machine(), "engine": o.engine, "artifact": o.artifact.name, "found": report}


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("engine", choices=("openvino", "llamaserver"))
    a.add_argument("artifact", type=Path, help="a folder that slmops wrote")
    a.add_argument("--prompts", type=Path, default=Path("samples/home/eval/tools.jsonl"))
    a.add_argument("--endless", action="store_true", help="no end of a text counts, and only the copied prompt is asked")
    a.add_argument("--every", type=int, default=8, help="take each so-manieth line")
    a.add_argument("--most", type=int, default=20, help="prompts of a round")
    a.add_argument("--repeat", type=int, default=5)
    a.add_argument("--threads", type=int, default=harness.machine()["cores"])
    a.add_argument("--json", type=Path, help="write the figures here too")
    o = a.parse_args()
    harness.write_json(o.json, measure(o))


if __name__ == "__main__":
    main()
