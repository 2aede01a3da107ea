"""slmops demo: the main job on the shipped sample."""

from __future__ import annotations

import argparse

HELP = "convert the shipped sample to every format at q4 and q8, prove each in its engine, and compare them"
EXAMPLE = "slmops demo"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", default="slmops-demo", help="where the artifacts go (slmops-demo)")
    parser.add_argument("--to", metavar="FORMATS", help="only these formats, with commas")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from slmops import demo
    from slmops.cli import _text
    from slmops.cli._progress import Progress

    formats = [name.strip().replace("-", "_") for name in arguments.to.split(",")] if arguments.to else None
    progress = Progress(quiet=arguments.json)
    played = demo.play(Path(arguments.out), watch=progress.watch(), formats=formats, device=arguments.device)
    if arguments.json:
        print(json.dumps(_facts(played), indent=1))
    else:
        header = [
            "format",
            "bits",
            "engine",
            "size",
            "proof",
            "exact match",
            "KL divergence",
            "tok/s",
            "first token",
            "peak",
        ]
        print(_text.table(header, [_cells(row) for row in played.rows]))
        for line in dict.fromkeys(_missing(row) for row in played.rows if row.missing):
            print(line)
        print(_legend(played))
    for failure in played.failures:
        print(f"slmops: {failure}", file=sys.stderr)
    return played.failures[0].exit_code if played.failures else 0


def _cells(row: object) -> list[str]:
    from slmops.cli import _text
    from slmops.demo import Row

    assert isinstance(row, Row)
    start = [row.format.replace("_", "-"), row.scheme, row.engine, _text.size(row.bytes) if row.bytes else "-"]
    proof = f"{row.proof:.0e}" if row.proof is not None else "-"
    if row.exact is None or row.speed is None:
        return [*start, proof, *["-"] * 5]
    low, high = row.exact.interval
    return [
        *start,
        proof,
        f"{row.exact.right}/{row.exact.cases} ({low:.0%}-{high:.0%})",
        f"{row.quality.kl.value:.4f} ±{row.quality.kl.error:.4f}" if row.quality else "-",
        f"{row.speed.decode:,.0f}",
        f"{row.speed.first_token * 1000:.1f} ms",
        _text.size(row.peak),
    ]


def _missing(row: object) -> str:
    from slmops.demo import Row

    assert isinstance(row, Row)
    return f"{row.format.replace('_', '-')} ({row.engine}): {row.missing}"


def _legend(played: object) -> str:
    from slmops.demo import CASES, QUESTION, WINDOW, WINDOWS, Demo

    assert isinstance(played, Demo)
    lines = [
        "",
        f"exact match: at most {CASES} tool calls, greedy, with Wilson's 95 % interval; KL divergence: from the bf16 model",
        f"on {WINDOW * WINDOWS} tokens, nats, ± standard error; proof: relative error of logits in f32 mode against the",
        "reference of the same codes; tok/s, first token: medians of 3 runs after a warm-up; peak: resident memory of",
        "the engine's process.",
    ]
    best = played.best
    if best is not None:
        folder = best.folder.as_posix()
        lines += [
            "",
            f"best: {best.format.replace('_', '-')} {best.scheme} in {best.engine}, the fastest of those whose exact match",
            "lies within the best one's interval. It was asked:",
            f"  > {QUESTION}",
            f"  {played.answer}",
            "",
            f"done in {played.seconds:.0f} s. Next:",
            f'  slmops run {folder} "remind me to water the plants at 7 pm"',
            f"  slmops verify {folder}",
            "  slmops inspect Qwen/Qwen3-0.6B",
            "  slmops convert Qwen/Qwen3-0.6B --to gguf,openvino --quantize q4 -o qwen3",
        ]
    return "\n".join(lines)


def _facts(played: object) -> dict[str, object]:
    from dataclasses import asdict

    from slmops.demo import Demo

    assert isinstance(played, Demo)
    rows = [{**asdict(row), "folder": str(row.folder)} for row in played.rows]
    best = {"folder": str(played.best.folder), "engine": played.best.engine} if played.best else None
    return {"rows": rows, "best": best, "answer": played.answer, "seconds": played.seconds}
