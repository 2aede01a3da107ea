"""slmops measure: what artifacts are worth and what they cost, in their real engines on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli import _units

if TYPE_CHECKING:
    from slmops.measure.artifact import Measured
    from slmops.measure.gates import Verdict
    from slmops.measure.speed import Load
    from slmops.measure.statistics import Estimate, Percentiles

HELP = "take quality against the source, tasks, speed and memory of artifacts in their engines, each with its interval"
EXAMPLE = "slmops measure out/gguf out/onnx --against samples/home --text samples/home/eval/text.txt"


DEFAULT = "default"
MOST_AT_ONCE = 256


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact",
        nargs="+",
        help="folders, or names in the registry; the others are compared with the first",
    )
    parser.add_argument("--against", metavar="SRC", help="the unquantized model: a folder or a Hugging Face name")
    parser.add_argument("--text", metavar="FILE", help="a text in the model's own domain; needs --against")
    parser.add_argument("--tasks", metavar="FILE", help="JSON lines, each a case with its scorer (docs/tasks.md)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="for the tasks of one artifact (60)")
    parser.add_argument("--engine", help="this engine only; default: the preferred one of each format")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")
    _units.add_kv(parser, "default: the engine's own (auto)")
    parser.add_argument(
        "--attach", action="store_true", help="file figures and verdicts with what is a name in the registry"
    )
    parser.add_argument("--report", metavar="FILE", help="write what was found as one HTML file that works offline")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of the speed, after a warm-up (3)")
    text = "throughput and latency with so many requests in flight, such as 1,4: in engines that compute several at once"
    parser.add_argument("--concurrency", metavar="N,N", help=text)
    _units.add_gates(parser, "or 'default' for quality, latency spread, stress and stability")


def run(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from slmops import source as sources
    from slmops.cli import _filing, _reference
    from slmops.cli._progress import Progress
    from slmops.core import receipt, store
    from slmops.core.errors import GateFailed, SourceNotFound, UsageError
    from slmops.measure import artifact, gates, report, tasks
    from slmops.plan import hardware

    progress = Progress(quiet=arguments.json)
    filed = _filing.digests(arguments.artifact) if arguments.attach else []
    arguments.artifact = [str(_reference.folder(one)) for one in arguments.artifact]
    if (arguments.text is None) != (arguments.against is None):
        raise UsageError("--against and --text belong together", "give the unquantized model and a text, or neither")
    if arguments.runs < 1:
        raise UsageError(f"{arguments.runs} runs make no median", "give 1 or more")
    if arguments.text is not None and not Path(arguments.text).is_file():
        raise SourceNotFound(f"there is no file {arguments.text}", "give the path of one")
    levels, asked = _levels(arguments), arguments.gate or []
    wanted, required = _units.gates([text for text in asked if text != DEFAULT]), _units.required(arguments)
    unquantized = _dense(arguments.artifact[0]) and len(arguments.artifact) > 1
    if required and not unquantized:
        raise UsageError("--require compares with an unquantized artifact", "give one of f16, bf16 or f32 as the first")
    endures = DEFAULT in asked or any(gate.needs_endurance for gate in wanted)
    if arguments.report:
        report.check(Path(arguments.report))
    cases = tasks.spread(tasks.read_cases(Path(arguments.tasks))) if arguments.tasks else []
    with store.scratch("measure") as scratch:
        source = text = None
        if arguments.text is not None:
            content = Path(arguments.text).read_text(encoding="utf-8", errors="replace")
            source = sources.load(_reference.source(arguments.against))
            text = artifact.Text(source, content, scratch)
        found = []
        for folder in arguments.artifact:
            one = artifact.measure(
                Path(folder),
                arguments.engine,
                text=text,
                cases=cases,
                seconds=arguments.seconds,
                runs=arguments.runs,
                device=arguments.device,
                kv=arguments.kv,
                say=progress.say,
            )
            if levels:
                progress.say(f"{folder}: {' and '.join(map(str, levels))} requests in flight")
                one = artifact.under_load(one, levels, text, device=arguments.device)
            if endures:
                progress.say(f"{folder}: stress and stability")
                one = artifact.endure(one, text, device=arguments.device)
            found.append(one)
    compared = []
    races: list[Estimate | None] = [None]
    for other in found[1:]:
        progress.say(f"{other.folder} beside {found[0].folder}: speed, turn by turn")
        raced = artifact.race(found[0], other, max(2, arguments.runs), device=arguments.device)
        compared.append(_compared(found[0], other, text.windows if text else [], raced))
        races.append(raced)
    verdicts: list[list[Verdict]] = [[] for _ in found]
    for one, raced, said in zip(found, races, verdicts, strict=True):
        baseline = found[0] if unquantized and one is not found[0] else None
        if DEFAULT in asked:
            said.extend(gates.default(one, parent=baseline, asked=wanted))
        if baseline is not None:
            said.extend(gates.against(one, baseline, required, hardware.detect().cache, raced))
        said.extend(gates.added(one, wanted))
    if arguments.json or arguments.report:
        facts = report.plain({
            **report.heading(arguments.command, source),
            "inputs": report.inputs(text=arguments.text, tasks=arguments.tasks),
            "measured": [{**artifact.facts(one), "verdicts": said} for one, said in zip(found, verdicts, strict=True)],
            "compared": compared,
            "machine": hardware.detect(),
            "artifacts": [report.artifact(one.folder, source) for one in found],
        })  # fmt: skip
    if filed:
        _filing.measured({
            digest: report.plain({"measured": artifact.facts(one), "verdicts": said, "machine": receipt.machine()})
            for digest, one, said in zip(filed, found, verdicts, strict=True)
        })  # fmt: skip
    print(json.dumps(facts, indent=1) if arguments.json else _shown(found, compared, verdicts))
    if arguments.report:
        report.write(Path(arguments.report), facts)
    if stopped := [
        f"{one.folder}: {each.gate}" for one, said in zip(found, verdicts, strict=True) for each in said if each.stops
    ]:
        raise GateFailed(f"not passed: {'; '.join(stopped)}", "the verdicts above say what was found, and what was asked")
    return 0


def _levels(arguments: argparse.Namespace) -> list[int]:
    """What --concurrency said. Raises UsageError for what is no number, and for an engine that takes one at a time."""
    from pathlib import Path

    from slmops import run
    from slmops.core import plugins
    from slmops.core.errors import UsageError
    from slmops.engines import _installed

    texts = [text.strip() for text in (arguments.concurrency or "").split(",") if text.strip()]
    if not all(text.isdecimal() and 0 < int(text) <= MOST_AT_ONCE for text in texts):
        raise UsageError(
            f"--concurrency {arguments.concurrency!r} is no list of numbers", f"1 to {MOST_AT_ONCE}, such as 1,4"
        )
    for folder in arguments.artifact if texts else ():
        form = run.Artifact.open(Path(folder)).format
        name = run.choose_engine(form, arguments.engine)
        if "parallel" not in plugins.load("engines", name).CAN:
            able = [one for one in _installed.engines_for(form) if "parallel" in plugins.load("engines", one).CAN]
            cure = f"--engine {' or '.join(able)}" if able else f"no engine of {form} computes several at once here"
            raise UsageError(f"{name} takes one request at a time", cure)
    return [int(text) for text in texts]


def _dense(folder: str) -> bool:
    """Whether an artifact holds plain numbers of 16 bits or more."""
    from pathlib import Path

    from slmops.core import receipt

    path = Path(folder)
    return (path / receipt.NAME).is_file() and receipt.load(path).get("scheme") in ("f16", "bf16", "f32")


def _under_load(loads: list[tuple[Measured, Load]]) -> tuple[list[str], list[list[str]], str]:
    """The table of several requests in flight."""

    def times(one: Percentiles) -> str:
        return " / ".join(f"{each.value * 1000:,.1f}" for each in (one.p50, one.p95, one.p99)) + " ms"

    rows = [
        [one.engine, one.scheme, str(load.at_once), str(load.requests),
         f"{load.throughput.value:,.0f} ({load.throughput.low:,.0f}-{load.throughput.high:,.0f})",
         times(load.first_token), times(load.itl)]
        for one, load in loads
    ]  # fmt: skip
    header = ["engine", "scheme", "in flight", "requests", "tok/s of all", "TTFT p50 / p95 / p99", "ITL p50 / p95 / p99"]
    return header, rows, "llrrrrr"


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


def _shown(found: list[Measured], compared: list[dict[str, Any]], verdicts: list[list[Verdict]]) -> str:
    from slmops.cli import _text
    from slmops.measure import speed as speeds

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
    if loads := [(one, load) for one in found for load in one.concurrency.values()]:
        lines.append(_text.table(*_under_load(loads)))
    for one in found:
        if one.speed and one.speed.batches > 1:
            lines.append(f"{one.folder}: the speed was taken {one.speed.batches} times, for it varied; the steadiest counts")
    for one in found:
        runs = ", ".join(f"{key} {one.effective[key]}" for key in ("weights", "activations", "kv") if key in one.effective)
        lines.append(f"{one.folder} in {one.engine} computes with\n  {runs}")
    if speeds.joules() is None:
        lines.append("energy: this system has no counters of it that can be read here (RAPL)")
    for one, own in zip(found, verdicts, strict=True):
        if own:
            lines.append("\n".join([f"{one.folder} in {one.engine}:", *_text.verdicts(own)]))
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
