"""slmops measure: what artifacts are worth and what they cost, in their real engines on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.measure.artifact import Measured
    from slmops.measure.statistics import Estimate

HELP = "take quality against the source, tasks, speed and memory of artifacts in their engines, each with its interval"
EXAMPLE = "slmops measure out/gguf out/onnx --against samples/home --text samples/home/eval/text.txt"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", nargs="+", help="folders that slmops wrote; the others are compared with the first")
    parser.add_argument("--against", metavar="SRC", help="the unquantized model: a folder or a Hugging Face name")
    parser.add_argument("--text", metavar="FILE", help="a text in the model's own domain; needs --against")
    parser.add_argument("--tasks", metavar="FILE", help="JSON lines, each a case with its scorer (docs/tasks.md)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="for the tasks of one artifact (60)")
    parser.add_argument("--engine", help="this engine only; default: the preferred one of each format")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of the speed, after a warm-up (3)")


def run(arguments: argparse.Namespace) -> int:
    import json
    import tempfile
    from pathlib import Path

    from slmops import source as sources
    from slmops.cli._progress import Progress
    from slmops.core.errors import SourceNotFound, UsageError
    from slmops.measure import artifact, tasks

    progress = Progress(quiet=arguments.json)
    if (arguments.text is None) != (arguments.against is None):
        raise UsageError("--against and --text belong together", "give the unquantized model and a text, or neither")
    if arguments.runs < 1:
        raise UsageError(f"{arguments.runs} runs make no median", "give 1 or more")
    if arguments.text is not None and not Path(arguments.text).is_file():
        raise SourceNotFound(f"there is no file {arguments.text}", "give the path of one")
    cases = tasks.spread(tasks.read_cases(Path(arguments.tasks))) if arguments.tasks else []
    with tempfile.TemporaryDirectory(prefix="slmops-measure-") as scratch:
        text = None
        if arguments.text is not None:
            content = Path(arguments.text).read_text(encoding="utf-8", errors="replace")
            text = artifact.Text(sources.load(arguments.against), content, Path(scratch))
        found = [
            artifact.measure(
                Path(folder),
                arguments.engine,
                text=text,
                cases=cases,
                seconds=arguments.seconds,
                runs=arguments.runs,
                device=arguments.device,
                say=progress.say,
            )
            for folder in arguments.artifact
        ]
    compared = []
    for other in found[1:]:
        progress.say(f"{other.folder} beside {found[0].folder}: speed, turn by turn")
        raced = artifact.race(found[0], other, max(2, arguments.runs), device=arguments.device)
        compared.append(_compared(found[0], other, text.windows if text else [], raced))
    if arguments.json:
        print(json.dumps({"measured": [artifact.facts(one) for one in found], "compared": compared}, indent=1))
    else:
        print(_shown(found, compared))
    return 0


def _compared(first: Measured, other: Measured, windows: list[list[int]], raced: Estimate | None) -> dict[str, Any]:
    """Two artifacts on the same windows and cases: differences with their intervals, other less first."""
    import dataclasses

    from slmops.measure import statistics

    result: dict[str, Any] = {"artifact": other.folder, "with": first.folder}
    if first.quality and other.quality:
        predicted = [len(ids) - 1 for ids in windows]
        loss = statistics.bootstrap(other.quality.losses, first.quality.losses, predicted)
        result["loss"] = dataclasses.asdict(loss)
    if first.answers and other.answers:
        count = min(len(first.answers.right), len(other.answers.right))
        pair = statistics.mcnemar(other.answers.right[:count], first.answers.right[:count])
        result["cases"] = dataclasses.asdict(pair)
    if raced is not None:
        result["speed"] = dataclasses.asdict(raced)
    return result


def _shown(found: list[Measured], compared: list[dict[str, Any]]) -> str:
    from slmops.cli import _text

    rows = []
    for one in found:
        quality, speed = one.quality, one.speed
        score = one.answers.score() if one.answers else None
        rows.append([
            one.format.replace("_", "-"), one.scheme, one.engine, _text.size(one.bytes),
            f"{quality.kl.value:.4f} ±{quality.kl.error:.4f}" if quality else "-",
            f"{quality.top1.value:.1%}" if quality else "-",
            f"{quality.retained.value:.3f} ({quality.retained.low:.3f}-{quality.retained.high:.3f})" if quality else "-",
            f"{score.right}/{score.cases} ({score.interval[0]:.0%}-{score.interval[1]:.0%})" if score else "-",
            f"{speed.decode:,.0f} ±{speed.spread / 2:.0%}" if speed else "-",
            f"{speed.first_token * 1000:.1f} ms" if speed else "-",
            _text.size(one.peak),
        ])  # fmt: skip
    header = ["format", "scheme", "engine", "size", "KL", "top-1", "retained", "right", "tok/s", "TTFT", "peak"]
    lines = [_text.table(header, rows, "lll" + "r" * 8)]
    for one in found:
        figures = one.answers.figures() if one.answers else {}
        if set(figures) - {"exact"}:
            shown = [f"{name} {each.value:.3f} ({each.low:.3f}-{each.high:.3f})" for name, each in figures.items()]
            lines.append(f"{one.folder} in {one.engine}: {', '.join(shown)}")
    for pair in compared:
        said = []
        if loss := pair.get("loss"):
            said.append(f"loss {loss['value']:+.4f} ({loss['low']:+.4f} to {loss['high']:+.4f}) nats a token")
        if cases := pair.get("cases"):
            both = cases["difference"]
            said.append(
                f"{cases['only_a']} cases won, {cases['only_b']} lost of {cases['cases']}: {both['value']:+.1%} "
                f"({both['low']:+.1%} to {both['high']:+.1%}), p = {cases['p']:.3f} (McNemar)"
            )
        if fast := pair.get("speed"):
            said.append(
                f"decode {fast['value']:.2f} times as fast ({fast['low']:.2f} to {fast['high']:.2f}), "
                f"{fast['samples']} rounds taken in turn"
            )
        if said:
            lines.append(f"{pair['artifact']} less {pair['with']}:\n  " + "\n  ".join(said))
    lines.append(
        "KL: mean divergence from the source, nats ± standard error over windows; retained: the source's perplexity over\n"
        "this one's, with its 95 % interval; right: cases answered as expected, Wilson's interval; tok/s: decode, ± half\n"
        "the spread of the runs; TTFT: time to the first token of a prompt of 128; peak: resident memory of the process"
    )
    return "\n\n".join(lines)
