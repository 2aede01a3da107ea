"""slmops optimize: the best format, scheme and engine for a model on this machine, within limits, measured and proven."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli import _units

if TYPE_CHECKING:
    from slmops.core.model import Model
    from slmops.optimize import Found
    from slmops.plan.decide import Candidate
    from slmops.trials import Trial, Wanted

HELP = "choose the best format, bits and engine for a model on this machine within limits: made, proven, measured"
EXAMPLE = "slmops optimize samples/home --max-size 60% -o best --report best.html"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder or file, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision)")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="folder for artifacts and measurements")
    parser.add_argument("--name", metavar="NAME[:TAG]", help="file the choice and its figures in the registry")
    parser.add_argument("--text", metavar="FILE", help="a text of the model's own domain; default: SRC/eval/text.txt")
    parser.add_argument("--tasks", metavar="FILE", help="JSON lines, each a case with its scorer (docs/tasks.md)")
    parser.add_argument("--calibrate", metavar="FILE", help="a text, other than --text, by which codes are solved for")
    parser.add_argument("--tune", type=int, default=0, metavar="N", help="with it, N passes that tune scales and norms (0)")
    parser.add_argument(
        "--objective", default="speed", metavar="WHAT", help="speed, size, memory or quality, or two: size,speed (speed)"
    )
    parser.add_argument("--min-quality", type=float, default=0.95, metavar="SHARE", help="of the source's quality (0.95)")
    _units.add_limits(parser)
    _units.add_gates(parser, "besides quality, latency spread, stress and stability")
    parser.add_argument("--budget", default="10m", metavar="TIME", help="then nothing new is begun: 90s, 10m, 2h (10m)")
    parser.add_argument("--executor", default="local", metavar="NAME", help="where trials run: local, or ray on a cluster")
    parser.add_argument("--report", metavar="FILE", help="write what was found as one HTML file that works offline")
    parser.add_argument("--dry-run", action="store_true", help="list the candidates, make nothing")


def run(arguments: argparse.Namespace) -> int:
    import functools
    import json
    import sys
    from pathlib import Path

    from slmops import compile as compiler
    from slmops import optimize, probes, search, trials
    from slmops import source as sources
    from slmops.cli import _filing, _reference, plan
    from slmops.cli._progress import Progress
    from slmops.core import plugins, receipt
    from slmops.core.errors import GateFailed, SourceNotFound, UsageError
    from slmops.measure import artifact, report, tasks
    from slmops.passes import calibrate
    from slmops.plan import hardware
    from slmops.registry import references

    if not 0 < arguments.min_quality <= 1:
        raise UsageError(f"--min-quality {arguments.min_quality} is no share", "above 0 and at most 1, such as 0.97")
    budget, asked, required = _units.seconds(arguments.budget), _units.gates(arguments.gate), _units.required(arguments)
    search.objectives(arguments.objective)
    plugins.load("executors", arguments.executor)
    if arguments.report:
        report.check(Path(arguments.report))
    name = references.named(arguments.name) if arguments.name else None
    model = sources.load(_reference.source(arguments.source))
    if name is not None:
        _filing.refuse_name(name, compiler.fingerprint(model), model.licence)
    limits, formats = _units.limits(arguments, model.parameters), _units.formats(arguments)
    if arguments.dry_run:
        planned = plan.facts(model, hardware.detect(), limits, formats, here=True)
        print(json.dumps(planned, indent=1) if arguments.json else plan.text(planned, everything=True))
        return 0
    text = Path(arguments.text) if arguments.text else Path(arguments.source) / "eval" / "text.txt"
    if not text.is_file():
        raise SourceNotFound(
            f"there is no text to measure quality on ({text})", "give one of the model's own domain: --text FILE"
        )
    content, seen = text.read_text(encoding="utf-8", errors="replace"), None
    if arguments.tune and not arguments.calibrate:
        raise UsageError("--tune needs the text of --calibrate", "add --calibrate FILE")
    if arguments.calibrate:
        seen = calibrate.read(Path(arguments.calibrate), functools.partial(probes.conversation, model))
        if seen == content:
            raise UsageError("--calibrate and --text are one text: its figures would flatter", "give two of one domain")
    cases = tasks.spread(tasks.read_cases(Path(arguments.tasks))) if arguments.tasks else []
    wanted = trials.Wanted(
        limits, arguments.min_quality, arguments.objective, budget, formats, gates=asked, required=required
    )
    progress, given = Progress(quiet=arguments.json), trials.Given(wanted, content, tuple(cases), seen, arguments.tune)
    found = optimize.optimize(model, Path(arguments.out), given, hardware.detect(), progress.watch(), arguments.executor)
    inputs = report.inputs(text=text, tasks=arguments.tasks, calibrate=arguments.calibrate)
    facts = _facts(found, model, wanted, arguments.command, inputs) if arguments.json or arguments.report else {}
    print(json.dumps(facts, indent=1) if arguments.json else _shown(found, wanted.objective))
    if arguments.report:
        report.write(Path(arguments.report), facts)
    if name is not None and found.choice is not None and found.choice.measured is not None:
        measured, verdicts = artifact.facts(found.choice.measured), found.choice.verdicts
        document = report.plain({"measured": measured, "verdicts": verdicts, "machine": receipt.machine()})
        digest = _filing.choice(name, Path(found.choice.measured.folder), document)
        print(f"{name}: {digest}", file=sys.stderr)
    if found.choice is None:
        raise GateFailed("nothing passed its gates", "; ".join(found.relax))
    return 0


def _facts(found: Found, model: Model, wanted: Wanted, command: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """All that --json prints and the report shows."""
    import dataclasses

    from slmops.measure import artifact, report

    def trial(one: Trial) -> dict[str, Any]:
        return {
            "format": one.candidate.format,
            "scheme": one.candidate.scheme,
            "engine": one.candidate.engine,
            "kv": one.candidate.kv,
            "passed": one.passed,
            "chosen": one is found.choice,
            "front": one in found.front,
            "measured": artifact.facts(one.measured) if one.measured else None,
            "verdicts": one.verdicts,
            "failure": one.failure or None,
        }

    def predicted(one: Candidate) -> dict[str, Any]:
        named = {"format": one.format, "scheme": one.scheme, "engine": one.engine, "kv": one.kv}
        return {**named, "size": one.size, "speed": one.speed}

    best = found.choice.measured if found.choice else None
    facts = {
        **report.heading(command, model),
        "wanted": {**dataclasses.asdict(wanted.limits), "quality": wanted.quality, "objective": wanted.objective,
                   "budget": wanted.budget, "formats": wanted.formats},
        "inputs": inputs,
        "choice": trial(found.choice) if found.choice else None,
        "trials": [trial(one) for one in found.trials],
        "front": [list(one.candidate.key) for one in found.front],
        "unmeasured": [predicted(one) for one in found.unmeasured],
        "dropped": [{**predicted(one), "because": one.dropped} for one in found.dropped],
        "relax": found.relax,
        "steps": found.steps,
        "stopped": found.stopped,
        "seconds": round(found.seconds, 1),
        "machine": found.machine,
        "artifacts": [report.artifact(best.folder, model)] if best else [],
    }  # fmt: skip
    plain: dict[str, Any] = report.plain(facts)
    return plain


def _shown(found: Found, objective: str) -> str:
    from slmops.cli import _text, plan

    rows = []
    for one in sorted(found.trials, key=lambda each: (not each.passed, each.candidate.size)):
        mark = "->" if one is found.choice else "*" if one in found.front else ""
        where = plan.where(one.candidate.engine, one.candidate.kv)
        name = [mark, one.candidate.format.replace("_", "-"), one.candidate.scheme, where]
        measured = one.measured
        if measured is None or measured.quality is None or measured.speed is None:
            rows.append([*name, *["-"] * 5, one.failure[:60] or "no figures"])
            continue
        retained = measured.quality.retained
        stops = [verdict.gate for verdict in one.verdicts if verdict.stops]
        rows.append([
            *name, _text.size(measured.bytes), f"{measured.quality.kl.value:.4f}",
            f"{retained.value:.3f} ({retained.low:.3f}-{retained.high:.3f})", f"{measured.speed.decode:,.0f}",
            _text.size(measured.peak), f"lacks {', '.join(stops)}" if stops else "passed",
        ])  # fmt: skip
    header = ["", "format", "scheme", "engine", "size", "KL", "quality kept", "tok/s", "peak", "gates"]
    lines = [_text.table(header, rows, "llllrrrrrl")]
    if found.choice and found.choice.measured:
        said = "\n".join(_text.verdicts(found.choice.verdicts))
        best, folder = found.choice.candidate, found.choice.measured.folder
        lines.append(f"chosen for {objective}: {best.named} in {best.engine}\n{said}")
        lines.append(f'next: slmops run {folder} "..." --engine {plan.where(best.engine, best.kv)}')
    lines += ["\n".join(found.steps)] if len(found.steps) > 1 else []
    if found.dropped:
        why = [(f"  {one.named}", one.dropped) for one in found.dropped]
        lines.append(f"dropped by prediction:\n{_text.pairs(why)}")
    rest = f"{len(found.unmeasured)} were not needed or not reached, {len(found.dropped)} dropped"
    lines.append(f"{found.stopped}; {len(found.trials)} measured in {found.seconds:.0f} s; {rest}")
    lines.append("->: the choice; *: on the front of divergence, size and speed; x of a gate: failed, ?: undecided")
    return "\n\n".join(lines)
