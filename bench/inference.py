#!/usr/bin/env python3
"""Compare two artifacts in the same engine: prefill and decode rates as ratios of paired runs.

    python bench/inference.py --engine openvino --a FOLDER --b FOLDER [--prompt 128] [--generate 32]
                              [--repeat 5] [--threads 2] [--json FILE]

Engines: llamacpp (native llama-bench; the xllamacpp wheel where that is missing), onnx (onnxruntime-genai), openvino
(OpenVINO GenAI, both of its back ends). Every run is a fresh child process, in the order A B A B; inside it one warm-up
and --passes measured passes, of which the median counts. Prefill is prompt tokens over the time to the first token,
decode is the rate of the tokens after the first. llama-bench measures decode on an empty context, the others behind
the prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import peers

ENGINES = {"llamacpp": ("native",), "xllamacpp": ("wheel",), "onnx": ("cpu",), "openvino": ("SDPA", "PA")}
Rates = dict[str, float]  # prefill and decode in tokens a second, load in seconds


def tokens(count: int, turn: int) -> list[int]:
    """The prompt of one pass: pseudo-random, the same for both artifacts, new at each turn.

    Paged engines keep prefixes they have seen: the same prompt twice would cost next to nothing.
    """
    x, ids = turn + 1, []
    for _ in range(count):
        x = (x * 1103515245 + 12345) % (1 << 31)
        ids.append(3 + (x >> 8) % 3000)  # below any real vocabulary's size
    return ids


def run_onnx(path: Path, backend: str, prompt: int, generate: int, threads: int, passes: int) -> Rates:
    import numpy as np
    import onnxruntime_genai as og

    start = time.perf_counter()
    config = og.Config(str(path))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    load = time.perf_counter() - start

    def once(turn: int) -> tuple[float, float]:
        params = og.GeneratorParams(model)
        # without min_length a random model may stop early; without max_length the cache takes the full context
        params.set_search_options(max_length=prompt + generate, min_length=prompt + generate, do_sample=False)
        generator = og.Generator(model, params)
        ids = np.array(tokens(prompt, turn), dtype=np.int32)
        t = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()  # only picks from the prompt's logits
        first = time.perf_counter()
        for _ in range(generate - 1):
            generator.generate_next_token()
        return prompt / (first - t), (generate - 1) / (time.perf_counter() - first)

    return _median(once, passes) | {"load": load}


def run_openvino(path: Path, backend: str, prompt: int, generate: int, threads: int, passes: int) -> Rates:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    start = time.perf_counter()
    options = {"ATTENTION_BACKEND": backend, "INFERENCE_NUM_THREADS": threads}
    pipe = genai.LLMPipeline(str(path), "CPU", **options)
    load = time.perf_counter() - start
    config = genai.GenerationConfig(max_new_tokens=generate, ignore_eos=True, do_sample=False)

    def once(turn: int) -> tuple[float, float]:
        ids = np.array([tokens(prompt, turn)], dtype=np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        metrics = pipe.generate(inputs, config).perf_metrics
        return prompt / metrics.get_ttft().mean * 1e3, 1e3 / metrics.get_tpot().mean

    return _median(once, passes) | {"load": load}


def run_xllamacpp(path: Path, backend: str, prompt: int, generate: int, threads: int, passes: int) -> Rates:
    import xllamacpp

    start = time.perf_counter()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = prompt + generate + 8
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    load = time.perf_counter() - start
    body = {"temperature": 0, "n_predict": generate, "ignore_eos": True, "cache_prompt": False}

    def once(turn: int) -> tuple[float, float]:
        times = server.handle_completions(body | {"prompt": tokens(prompt, turn)})["timings"]
        return times["prompt_per_second"], times["predicted_per_second"]

    return _median(once, passes) | {"load": load}


def _median(once: Callable[[int], tuple[float, float]], passes: int) -> Rates:
    """One warm-up, then the medians of the passes."""
    once(0)
    seen = [once(turn) for turn in range(1, passes + 1)]
    return {"prefill": harness.median([p for p, _ in seen]), "decode": harness.median([d for _, d in seen])}


CHILDREN = {"onnx": run_onnx, "openvino": run_openvino, "xllamacpp": run_xllamacpp}


def llama_bench(env: Path) -> str | None:
    """The native llama-bench: the peers' build, or one on PATH."""
    built = peers.llama_tool(env, "llama-bench")
    return str(built) if built.exists() else shutil.which("llama-bench")


def one_run(o: argparse.Namespace, engine: str, backend: str, artifact: Path) -> dict[str, float]:
    """Measure one artifact once in a process of its own."""
    sizes = [str(n) for n in (o.prompt, o.generate, o.threads, o.passes)]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        if engine == "llamacpp":
            flags = [x for pair in zip(("-p", "-n", "-t", "-r"), sizes, strict=True) for x in pair]
            bench = llama_bench(o.env) or "llama-bench"
            used = harness.run([bench, "-m", artifact, "-o", "json", *flags], log=log)
            text = log.read_text(errors="replace")
            tests = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
            rates = {"prefill" if t["n_prompt"] else "decode": harness.median(t["samples_ts"]) for t in tests}
        else:
            child: peers.Command = [interpreter(o, engine), __file__, "--child", engine, backend, artifact]
            used = harness.run([*child, *sizes], log=log)
            rates = json.loads(log.read_text(errors="replace").strip().rsplit("\n", 1)[-1])
    return {**rates, "rss": used.rss, "wall": round(used.wall, 2), "others": round(used.others, 2)}


def interpreter(o: argparse.Namespace, engine: str) -> Path:
    """The Python that holds the engine: the one given, else the peers' environment, else the one that runs this."""
    if o.python:
        return Path(o.python)
    own = peers.python(o.env, engine)
    return own if own.exists() else Path(sys.executable)


def compare(o: argparse.Namespace) -> dict[str, Any]:
    """Interleave A and B `--repeat` times in each back end; print the table and return the figures."""
    engine = o.engine
    if engine == "llamacpp" and not llama_bench(o.env):
        print("no native llama-bench: measuring in the xllamacpp wheel instead", file=sys.stderr)
        engine = "xllamacpp"
    for path in (o.a, o.b):
        if not path.exists():
            raise SystemExit(f"error: {path} does not exist: make it first (bench/README.md says how)")
    rows, report = [], {}
    for backend in [o.backend] if o.backend else ENGINES[engine]:
        runs: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
        for _ in range(o.repeat):
            for side, path in (("a", o.a), ("b", o.b)):
                runs[side].append(one_run(o, engine, backend, path.absolute()))
        entry: dict[str, Any] = {"runs": runs}
        cells = []
        for key in ("prefill", "decode", "rss"):
            a, b = ([r[key] for r in runs[side]] for side in ("a", "b"))
            entry[key] = {"a": harness.median(a), "b": harness.median(b), "ratio": harness.ratio(a, b)}
            scale, digits = (1e6, 0) if key == "rss" else (1, 1)
            cells += [f"{entry[key][s] / scale:.{digits}f}" for s in ("a", "b")]
            cells.append(harness.show(entry[key]["ratio"]))
        report[backend] = entry
        rows.append([f"{engine} {backend}", *cells])
    head = [f"{name} {what}" for name in ("prefill tok/s", "decode tok/s", "peak RSS MB") for what in ("A", "B", "A/B")]
    print(harness.table(["engine", *head], rows))
    facts = {"machine": harness.machine(), "versions": peers.versions(o.env), "engine": engine}
    settings = {k: getattr(o, k) for k in ("prompt", "generate", "repeat", "threads", "passes")}
    return facts | settings | {"a": o.a.name, "b": o.b.name, "backends": report}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        engine, backend, path, *sizes = sys.argv[2:]
        prompt, generate, threads, passes = map(int, sizes)
        rates = CHILDREN[engine](Path(path), backend, prompt, generate, threads, passes)
        print(json.dumps(rates), flush=True)
        os._exit(0)  # engines' tear-down is no part of this
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--engine", choices=ENGINES, required=True)
    a.add_argument("--a", type=Path, required=True, help="artifact: a .gguf file or a folder")
    a.add_argument("--b", type=Path, required=True, help="the artifact to compare with")
    a.add_argument("--backend", help="only this back end of the engine (openvino: SDPA or PA)")
    a.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    a.add_argument("--generate", type=int, default=32, help="tokens to generate, 2 or more")
    a.add_argument("--repeat", type=int, default=5, help="pairs")
    a.add_argument("--passes", type=int, default=3, help="measured passes in each process")
    a.add_argument("--threads", type=int, default=harness.machine()["cores"])
    a.add_argument("--env", type=Path, default=peers.default_env(), help="the peers' environments")
    a.add_argument("--python", type=Path, help="the interpreter that has the engine, if not the peers'")
    a.add_argument("--json", type=Path, help="write the figures here too")
    o = a.parse_args()
    o.env = o.env.absolute()
    if o.generate < 2 or min(o.prompt, o.repeat, o.passes) < 1:
        raise SystemExit("error: --generate needs 2 or more, --prompt, --repeat and --passes 1 or more")
    try:
        harness.write_json(o.json, compare(o))
    except harness.RunError as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
