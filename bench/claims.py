#!/usr/bin/env python3
"""What this field's tutorials claim, beside what the layout allows and what is measured here. Prints docs/claims.md's table.

    python bench/claims.py [--readings READINGS] [--races RACES] [--race FOLDER]

Sizes come from exact layouts of the catalogue's shapes (no weights are needed). Memory comes from what
`bench/planner.py read` measured (READINGS), speed from RACES: --race FOLDER measures it on the artifacts that planner.py
left for a checkpoint (FOLDER/gguf-f16, FOLDER/gguf-q4 ...), both of a pair open at once and timed turn by turn, and adds it
to RACES. Without them those rows say so. A claim holds where our figure is within a tenth of it, or on the promised side of
a bound.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from slmops import run
from slmops.core import plugins
from slmops.core.errors import SlmopsError, Unsupported
from slmops.core.roles import facts, layer
from slmops.core.tensor import elements
from slmops.engines import Options, _installed
from slmops.measure import speed
from slmops.plan import memory, models

BITS = {"f16": 16.0, "q4_0": 4.5, "q8_0": 8.5}
"""Bits a weight of the layout: codes, and an f16 scale for each group of 32."""
SIZES = {
    "Qwen3-0.6B": ("qwen3-0.6b", (1.2, 0.35, 0.68)),
    "Gemma 3": ("gemma-3-4b", (4.8, 1.3, 2.5)),
    "Phi-4-mini": ("phi-4-mini", (7.6, 2.0, 3.9)),
}
FACTORS = {"f16": 2.0, "q4": 1.2, "q8": 1.5}
FASTER = {
    "gguf": ("llama.cpp", 2, 3),
    "onnx": ("Olive (ONNX Runtime)", 2, 6),
    "openvino": ("OpenVINO", 2, 5),
    "mlx": ("MLX", 2, 4),
}
SHAPE = "qwen3-0.6b"
Row = tuple[str, str, str, str]


def gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def sizes() -> Iterator[Row]:
    """Files of F16, Q4_0 and Q8_0, tokenizer and all."""
    for title, (name, said) in SIZES.items():
        model = models.load(name).model
        for (scheme, bits), claim in zip(BITS.items(), said, strict=True):
            ours = memory.weights(model, "gguf", scheme) + memory.tokenizer(model, "gguf")
            least = model.parameters * bits / 8
            ratio = ours / (claim * 1e9)
            verdict = "holds" if 0.9 <= ratio <= 1.1 else f"does not hold: {ratio:.2f} of it"
            if claim * 1e9 < 0.97 * least:
                floor = f"{bits:g} bits for {model.parameters / 1e9:.2f} B weights are {gb(least)}"
                verdict = f"nearly: {floor}" if ratio <= 1.1 else f"cannot hold: {floor}"
            yield f"{title} in {scheme.upper()}: {claim} GB", f"{gb(ours)} ({name})", f"{gb(least)}, weights alone", verdict
    small, large = (models.load(name).model.parameters / 1e9 for name in ("gemma-3-1b", "gemma-3-4b"))
    yield (
        "(which Gemma 3 has 4.8 GB in F16?)", f"1B has {small:.2f} B weights, 4B {large:.2f} B (text part)",
        f"4.8 GB are {4.8 / 2:.1f} B weights", "no Gemma 3 has this size",
    )  # fmt: skip


def smaller() -> Iterator[Row]:
    """How much smaller 4 bits are than 16, in every format."""
    shares: dict[str, list[float]] = {}
    for name in ("qwen3-0.6b", "gemma-3-4b", "phi-4-mini", "llama-3.1-8b"):
        model = models.load(name).model
        for form in memory.writers():
            with contextlib.suppress(Unsupported):
                share = 1 - memory.weights(model, form, "q4") / memory.weights(model, form, "f16")
                shares.setdefault(form, []).append(share)
    for form, found in shares.items():
        low, high = min(found), max(found)
        verdict = "holds" if low >= 0.6 else "holds for large models" if high >= 0.6 else "does not hold"
        if form == "compressed_tensors":
            verdict += ": the embedding stays in 16 bits, for vLLM reads no codes of a tied one"
        yield (
            f"INT4 is 60-75 % smaller: {form.replace('_', '-')}", f"{low:.1%} to {high:.1%} on four shapes",
            f"{1 - 4.5 / 16:.1%} in groups of 32; 75 % only without scales", verdict,
        )  # fmt: skip


def factors(readings: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Memory at run time over the file, in llama.cpp."""
    for scheme, claim in FACTORS.items():
        own = [one for one in readings if one["format"] == "gguf" and one["scheme"] == scheme]
        shape = max(own, key=lambda each: each["parameters"])["checkpoint"] if own else ""
        seen = [one for one in own if one["checkpoint"] == shape]
        label = {"f16": "F16", "q4": "Q4_0", "q8": "Q8_0"}[scheme]
        if not seen:
            yield f"{label} takes {claim}x its file in memory", "not measured", "-", "-"
            continue
        ratios = [one["peak"] / one["file"] for one in seen]
        one = min(seen, key=lambda each: each["context"])
        ours = f"{min(ratios):.2f}x" + (f" to {max(ratios):.2f}x" if len(ratios) > 1 else "")
        context = " and ".join(str(each["context"]) for each in sorted(seen, key=lambda each: each["context"]))
        floor = (one["weights"] + one["kv_cache"]) / one["file"]
        spec = plugins.load("architectures", one["spec"]["model_type"]).spec(one["spec"])
        far = (memory.kv_cache(spec, spec.context) + one["weights"] + one["overhead"]) / one["file"]
        verdict = "a factor of the file says little: the KV cache and the engine do not grow with it"
        near = all(0.9 * claim <= ratio <= 1.1 * claim for ratio in ratios)
        yield (
            f"{label} takes {claim}x its file in memory", f"{ours} ({shape}'s shape, {context} tokens)",
            f"{floor:.2f}x: weights and KV cache; {far:.1f}x at {spec.context:,} tokens (predicted)",
            "holds here; " + verdict if near else "does not hold; " + verdict,
        )  # fmt: skip


def faster(races: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Decoding in 4 bits over 16 bits, in the same engine."""
    model = models.load(SHAPE).model
    for form, (title, low, high) in FASTER.items():
        ceiling = memory.weights(model, form, "f16") / memory.weights(model, form, "q4")
        own = [one for one in races if one["format"] == form]
        ceiling = max([ceiling, *(one["bytes"] for one in own)])  # of the shape that was raced, where one was
        engine = memory.footprint(form)[1]
        wide = engine.plain is not None and engine.plain > engine.copies
        ceiling *= 2 if wide else 1
        claim = f"{title}: {low}-{high}x faster"
        limit = f"{ceiling:.1f}x by the bytes that a token reads" + (" (16-bit weights are held as f32)" if wide else "")
        beyond = f"; {high}x cannot be reached by decoding" if high > ceiling * 1.05 else ""
        if not own:
            yield claim, "needs a Mac" if form == "mlx" else "not measured", limit, f"undecided{beyond}"
            continue
        shown = "; ".join(f"{one['value']:.2f}x ({one['low']:.2f} to {one['high']:.2f}) in {one['engine']}" for one in own)
        # By the interval: at least `low` surely, surely not, or neither.
        if any(one["low"] >= low for one in own):
            verdict = "holds"
        elif all(one["high"] < low for one in own):
            verdict = "does not hold here"
        else:
            verdict = "undecided: the intervals are too wide" if any(one["value"] >= low for one in own) else "hardly"
        yield claim, f"{shown}, {own[0]['rounds']} pairs, {own[0]['checkpoint']}'s shape", limit, f"{verdict}{beyond}"


def bounds(readings: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Models that are said to fit a memory."""
    q4 = [one for one in readings if (one["checkpoint"], one["format"], one["scheme"]) == (SHAPE, "gguf", "q4")]
    small = models.load("qwen3-0.6b").model
    weights = memory.weights(small, "gguf", "q4")
    at = {
        context: memory.of(small.spec, "gguf", "q4", context, weights, small.parameters) for context in (2048, 4096, 32768)
    }
    seen = f"measured {gb(q4[0]['peak'])} at {q4[0]['context']} tokens; " if q4 else ""
    told = ", ".join(f"{gb(one.total)} at {context:,}" for context, one in at.items())
    longest = max((context for context, one in at.items() if one.total < 1e9), default=0)
    yield (
        "Qwen3-0.6B, quantized: under 1 GB", f"{seen}predicted {told} tokens", f"{gb(weights)} of weights",
        f"holds up to about {longest:,} tokens of context; the KV cache in f16 takes 115 kB a token",
    )  # fmt: skip
    phi = models.load("phi-4-mini").model
    weights = memory.weights(phi, "gguf", "q4")
    one = memory.of(phi.spec, "gguf", "q4", 4096, weights, phi.parameters)
    verdict = "holds, and there is room" if one.high < 3e9 else "holds" if one.low < 4e9 else "does not hold"
    yield "Phi-4-mini, quantized: 3-4 GB", f"predicted {gb(one.low)} to {gb(one.high)} at 4,096 tokens", gb(weights), verdict
    bit = models.load("bitnet-2b-4t").model
    held = elements(bit.tensors["embedding"].shape)
    inner = sum(elements(t.shape) for role, t in bit.tensors.items() if facts(role).quantize and layer(role) is not None)
    onnx = memory.weights(bit, "onnx", "q4")
    two = f"{gb(inner * 1.6875 / 8)} at 1.69 bits, {gb(inner / 4)} at 2"
    yield (
        "BitNet 2B4T: under 500 MB", f"{gb(onnx)} in ONNX at 4 bits (no engine here has ternary kernels for it)",
        f"inner weights {two}; its embedding {gb(2 * held)} in 16 bits",
        "cannot hold for the whole model; what is counted is the inner weights alone",
    )  # fmt: skip


def race(folder: Path, rounds: int, threads: int | None, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """4 bits against 16 in each engine that opens both, in turn."""
    done = {(one["checkpoint"], one["engine"]) for one in known}
    for form in FASTER:
        pair = [folder / f"{form}-{scheme}" for scheme in ("f16", "q4")]
        if form == "mlx" or not all(path.is_dir() for path in pair):
            continue  # MLX on Linux only stands in for a Mac
        for name in _installed.engines_for(form):
            if not _installed.installed(name) or (folder.name, name) in done:
                continue
            with contextlib.ExitStack() as both, contextlib.suppress(SlmopsError):
                workers = [
                    both.enter_context(run.open_worker(run.Artifact.open(path), name, Options(threads=threads, context=256)))
                    for path in pair
                ]
                slow, quick = speed.together(workers, [5] * 64, 24, rounds)
                found = speed.ratio(slow, quick)
                yield {
                    "checkpoint": folder.name, "format": form, "engine": name, "value": found.value, "low": found.low,
                    "high": found.high, "bytes": harness.size(pair[0]) / harness.size(pair[1]), "rounds": rounds,
                    "threads": threads, "f16": slow.decode, "q4": quick.decode, "load_average": os.getloadavg()[0],
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=Path, nargs="*", default=[], help="of bench/planner.py read")
    parser.add_argument("--races", type=Path, help="where races are kept")
    parser.add_argument("--race", type=Path, help="a folder of artifacts to race now")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of each engine")
    a = parser.parse_args()
    readings = [one for path in a.readings for one in json.loads(path.read_text())]
    races = json.loads(a.races.read_text()) if a.races and a.races.is_file() else []
    if a.race:
        for one in race(a.race, a.rounds, a.threads, races):
            races.append(one)
            print(f"{one['engine']}: {one['value']:.2f}", file=sys.stderr)
            harness.write_json(a.races, races)
    rows = [*sizes(), *smaller(), *factors(readings), *faster(races), *bounds(readings)]
    print("| the claim | here | the limit that the layout sets | verdict |\n|---|---|---|---|")
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


if __name__ == "__main__":
    main()
