#!/usr/bin/env python3
"""Does slmops measure what llama-bench measures? Both on one GGUF artifact, turn by turn, as ratios of pairs.

    python bench/llamabench.py ARTIFACT [--llama-bench PATH] [--engine llamaserver] [--repeat 7] [--json FILE]

The definitions are llama-bench's own: pp is 512 tokens of prompt over the time that they take, tg is 128 tokens one after
the other from an empty context (tools/llama-bench/README.md). What slmops sees is a little more: pp is the time to the
first token, tg the time from the first token to the 129th, each token picked, sent through the worker, and stamped where it
comes out. So a ratio below 1 is what the engine's own sampling and the way to its owner cost. A turn is one llama-bench
(its own warm-up, one repetition) and one of slmops in a worker that is open all the time (one warm-up at the start).

The engine llamaserver must be of the same build as llama-bench: put both on PATH. The xllamacpp wheel (--engine llamacpp)
is another build, so its ratio is between builds.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import harness

from slmops.core.errors import SlmopsError
from slmops.engines import Options, Sampling
from slmops.engines._host import Worker
from slmops.measure import statistics

BOUND = 0.05
"""The ratios' whole intervals are asked to lie within 1 +- this."""


def theirs(program: str, gguf: Path, o: argparse.Namespace) -> dict[str, float]:
    """llama-bench once: pp and tg in tokens a second."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        sizes = ["-p", str(o.prompt), "-n", str(o.generate), "-t", str(o.threads), "-r", "1"]
        harness.run([program, "-m", gguf, "-o", "json", *sizes], log=log)
        text = log.read_text(errors="replace")
    tests = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    return {"pp" if test["n_prompt"] else "tg": test["samples_ts"][0] for test in tests}


def ours(worker: Worker, o: argparse.Namespace, turn: int) -> dict[str, float]:
    """The same through a worker. Prompts differ from turn to turn: a server may remember one."""
    ids = [3 + (turn * 7919 + place * 104729) % 1000 for place in range(o.prompt)]
    (first,) = [token.seconds for token in worker.generate(ids, Sampling(max_tokens=1)) if token.id is not None]
    stamps = [t.seconds for t in worker.generate(ids[:1], Sampling(max_tokens=o.generate + 1)) if t.id is not None]
    return {"pp": o.prompt / first, "tg": (len(stamps) - 1) / (stamps[-1] - stamps[0])}


def compare(o: argparse.Namespace) -> dict[str, object]:
    """Interleave both; print the table and return the figures."""
    program = o.llama_bench or shutil.which("llama-bench")
    if program is None or shutil.which(program) is None:
        raise SystemExit("error: there is no llama-bench: put one on PATH, or give --llama-bench PATH")
    gguf = o.artifact / "model.gguf"
    if not gguf.is_file():
        raise SystemExit(f"error: there is no {gguf}: make it with slmops convert SRC --to gguf --quantize q4 -o OUT")
    runs: dict[str, list[dict[str, float]]] = {"llama-bench": [], "slmops": []}
    context = o.prompt + o.generate + 8
    with Worker(o.engine, o.artifact, Options(device="cpu", threads=o.threads, context=context)) as worker:
        effective = worker.effective
        ours(worker, o, 0)
        for turn in range(1, o.repeat + 1):
            runs["llama-bench"].append(theirs(program, gguf, o))
            runs["slmops"].append(ours(worker, o, turn))
    rows, found = [], {}
    for test, name in (("pp", f"pp{o.prompt}"), ("tg", f"tg{o.generate}")):
        a, b = ([one[test] for one in runs[side]] for side in ("slmops", "llama-bench"))
        pairs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
        ratio = statistics.mean(pairs).through(math.exp)
        agreed = ratio.low >= 1 - BOUND and ratio.high <= 1 + BOUND
        apart = ratio.high < 1 - BOUND or ratio.low > 1 + BOUND
        verdict = "within 5 %" if agreed else "not within 5 %" if apart else "undecided: more --repeat, a quieter machine"
        cells = [f"{harness.median(b):.1f}", f"{harness.median(a):.1f}"]
        rows.append([name, *cells, f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})", verdict])
        found[name] = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": verdict}
    head = ["test", "llama-bench tok/s", "slmops tok/s", f"ratio, 95 % of {o.repeat} pairs", "agreement"]
    print(harness.table(head, rows))
    return {"machine": harness.machine(), "engine": effective, "threads": o.threads, "runs": runs, "tests": found}


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("artifact", type=Path, help="a folder that slmops convert --to gguf wrote")
    a.add_argument("--llama-bench", help="the program, if not the one on PATH")
    a.add_argument("--engine", choices=("llamaserver", "llamacpp"), default="llamaserver")
    a.add_argument("--prompt", type=int, default=512, help="tokens of pp")
    a.add_argument("--generate", type=int, default=128, help="tokens of tg")
    a.add_argument("--repeat", type=int, default=7, help="pairs, 2 or more")
    a.add_argument("--threads", type=int, default=harness.machine()["cores"])
    a.add_argument("--json", type=Path, help="write the figures here too")
    o = a.parse_args()
    if o.repeat < 2 or min(o.prompt, o.generate) < 2:
        raise SystemExit("error: --repeat, --prompt and --generate need 2 or more")
    try:
        harness.write_json(o.json, compare(o))
    except (harness.RunError, SlmopsError) as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
