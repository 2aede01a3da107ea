"""bench/serve.py first: a model that nobody has loaded yet answers; how much later than its engine alone?
bench/serve.py engines: which engine serves most tokens a second, by how many ask at once?

first: each turn starts anew: the engine's own Python package in a fresh process, which opens the folder and makes one token;
and `slmops serve`, which is up and has loaded nothing, asked for one token. Files are in the page cache.
engines: each a server of its own, all of them up, the same requests to one after the other; medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serve import HERE, figures, load, served

PROMPT = "Once upon a time"
ALONE = {
    "llamacpp": """
import sys, xllamacpp
from pathlib import Path
params = xllamacpp.CommonParams()
params.model.path = str(next(Path(sys.argv[1]).glob("*.gguf")))
params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
server = xllamacpp.Server(params)
assert server.handle_completions({"prompt": sys.argv[2], "n_predict": 1, "temperature": 0})["choices"]
""",
    "openvino_paged": """
import sys
sys.modules["openvino_telemetry"] = None
import openvino_genai as genai
scheduler = genai.SchedulerConfig()
scheduler.enable_prefix_caching = scheduler.dynamic_split_fuse = True
pipeline = genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU", {})
config = genai.GenerationConfig()
config.max_new_tokens, config.ignore_eos, config.apply_chat_template = 1, True, False
tokenizer = pipeline.get_tokenizer()
handle = pipeline.add_request(0, tokenizer.encode(sys.argv[2], add_special_tokens=False).input_ids, config)
while not handle.can_read():
    pipeline.step()
assert tokenizer.decode(next(iter(handle.read().values())).generated_ids)
""",
    "onnxruntime": """
import sys
import onnxruntime_genai as genai
model = genai.Model(sys.argv[1])
tokenizer = genai.Tokenizer(model)
params = genai.GeneratorParams(model)
params.set_search_options(max_length=256, do_sample=False)
generator = genai.Generator(model, params)
generator.append_tokens(tokenizer.encode(sys.argv[2]))
generator.generate_next_token()
assert tokenizer.decode(generator.get_next_tokens())
""",
}


def alone(engine: str, folder: Path) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-c", f"{ALONE[engine]}print('made', flush=True)", str(folder), f"0 {PROMPT}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        if "made\n" not in child.stdout:
            raise SystemExit(f"{engine} alone made nothing")
        taken = time.perf_counter() - began
        child.stdout.read()
    return taken


PATH = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "src")])}


def asked(engine: str, folder: Path) -> float:
    with served(folder, ["--engine", engine, "--context", "256", "--parallel", "1"], None, **PATH) as (port, _):
        (one,) = asyncio.run(load(port, 1, 1, 1, True, PROMPT, keep=False))
    if one.fault:
        raise SystemExit(f"{engine}: {one.fault}")
    return one.stamps[0] - one.sent


def first(o: argparse.Namespace) -> dict[str, Any]:
    """Medians in milliseconds; `added` is of neighbouring turns."""
    found: dict[str, Any] = {}
    for engine, folder in (("llamacpp", o.gguf), ("openvino_paged", o.openvino), ("onnxruntime", o.onnx)):
        if folder is None:
            continue
        alone(engine, folder), asked(engine, folder)
        rows = [(alone(engine, folder), asked(engine, folder)) for _ in range(o.rounds)]
        added = sorted(1e3 * (ours - theirs) for theirs, ours in rows)
        found[engine] = {
            "alone_ms": 1e3 * statistics.median(theirs for theirs, _ in rows),
            "served_ms": 1e3 * statistics.median(ours for _, ours in rows),
            "added_ms": statistics.median(added),
            "lowest_ms": added[0],
            "highest_ms": added[-1],
        }
    return found


def engines(o: argparse.Namespace) -> dict[str, Any]:
    """engine -> {requests at once: tokens a second}."""
    given = {"llamacpp": o.gguf, "llamaserver": o.gguf, "openvino_paged": o.openvino, "onnxruntime": o.onnx}
    counts = [int(one) for one in o.at_once.split(",")]
    found: dict[str, Any] = {name: {} for name, folder in given.items() if folder is not None}
    for at_once in counts:
        words = ["--context", "256", "--parallel", str(at_once), "--queue", "1000"]
        rates: dict[str, list[float]] = {name: [] for name in found}
        with contextlib.ExitStack() as up:
            ports = {one: up.enter_context(served(given[one], [*words, "--engine", one], None, **PATH))[0] for one in found}
            for turn in range(o.rounds + 1):
                for name, port in ports.items():
                    asking = load(port, at_once, max(8, at_once), o.tokens, True, f"{turn} {PROMPT}", keep=False)
                    seen = figures(asyncio.run(asking))
                    if turn:  # the first is a warm-up
                        rates[name].append(seen["tokens_s"])
        for name, values in rates.items():
            found[name][str(at_once)] = statistics.median(values)
    return found
