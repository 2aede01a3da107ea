"""slmops optimize: the best format, scheme and engine for a model on this machine, within limits, measured and proven."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli import _units

if TYPE_CHECKING:
    from slmops.optimize import Found, Trial

HELP = "choose the best format, bits and engine for a model on this machine within limits: made, proven, measured"
EXAMPLE = "slmops optimize samples/home --max-size 60% -o best"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder or file, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision)")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="folder for artifacts and measurements")
    parser.add_argument("--text", metavar="FILE", help="a text of the model's own domain; default: SRC/eval/text.txt")
    parser.add_argument("--tasks", metavar="FILE", help='JSON lines of {"messages": [...], "expected": "..."}')
    parser.add_argument("--calibrate", metavar="FILE", help="a text, other than --text, by which codes are solved for")
    parser.add_argument("--objective", choices=("speed", "size", "memory", "quality"), default="speed", help="what is best")
    parser.add_argument("--min-quality", type=float, default=0.95, metavar="SHARE", help="of the source's quality (0.95)")
    _units.add_limits(parser)
    _units.add_gates(parser, "besides quality, latency spread, stress and stability")
    parser.add_argument("--budget", default="10m", metavar="TIME", help="then nothing new is begun: 90s, 10m, 2h (10m)")
    parser.add_argument("--dry-run", action="store_true", help="list the candidates, make nothing")


def run(arguments: argparse.Namespace) -> int:
    import functools
    import json
    from pathlib import Path

    from slmops import optimize, probes
    from slmops import source as sources
    from slmops.cli import plan
    from slmops.cli._progress import Progress
    from slmops.core.errors import GateFailed, SourceNotFound, UsageError
    from slmops.measure import tasks
    from slmops.passes import calibrate
    from slmops.plan import hardware

    if not 0 < arguments.min_quality <= 1:
        raise UsageError(f"--min-quality {arguments.min_quality} is no share", "above 0 and at most 1, such as 0.97")
    budget, asked, required = _units.seconds(arguments.budget), _units.gates(arguments.gate), _units.required(arguments)
    model = sources.load(arguments.source)
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
    if arguments.calibrate:
        seen = calibrate.read(Path(arguments.calibrate), functools.partial(probes.conversation, model))
        if seen == content:
            raise UsageError("--calibrate and --text are one text: its figures would flatter", "give two of one domain")
    cases = tasks.spread(tasks.read_cases(Path(arguments.tasks))) if arguments.tasks else []
    wanted = optimize.Wanted(
        limits, arguments.min_quality, arguments.objective, budget, formats, gates=asked, required=required
    )
    progress = Progress(quiet=arguments.json)
    found = optimize.optimize(model, Path(arguments.out), wanted, content, hardware.detect(), cases, seen, progress.watch())
    print(json.dumps(_facts(found), indent=1) if arguments.json else _shown(found, wanted.objective))
    if found.choice is None:
        raise GateFailed("nothing passed its gates", "; ".join(found.relax))
    return 0


def _facts(found: Found) -> dict[str, Any]:
    import dataclasses

    from slmops.measure import artifact

    def trial(one: Trial) -> dict[str, Any]:
        return {
            "format": one.candidate.format,
            "scheme": one.candidate.scheme,
            "engine": one.candidate.engine,
            "passed": one.passed,
            "measured": artifact.facts(one.measured) if one.measured else None,
            "verdicts": [dataclasses.asdict(verdict) for verdict in one.verdicts],
            "failure": one.failure or None,
        }

    return {
        "choice": trial(found.choice) if found.choice else None,
        "trials": [trial(one) for one in found.trials],
        "front": [[one.candidate.format, one.candidate.scheme, one.candidate.engine] for one in found.front],
        "unmeasured": [[one.format, one.scheme, one.engine] for one in found.unmeasured],
        "dropped": [{"format": one.format, "scheme": one.scheme, "because": one.dropped} for one in found.dropped],
        "relax": list(found.relax),
        "stopped": found.stopped,
        "seconds": round(found.seconds, 1),
        "machine": dataclasses.asdict(found.machine),
    }


def _shown(found: Found, objective: str) -> str:
    from slmops.cli import _text

    rows = []
    for one in sorted(found.trials, key=lambda each: (not each.passed, each.candidate.size)):
        mark = "->" if one is found.choice else "*" if one in found.front else ""
        name = [mark, one.candidate.format.replace("_", "-"), one.candidate.scheme, one.candidate.engine]
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
        lines.append(f"chosen for {objective}: {best.format.replace('_', '-')} {best.scheme} in {best.engine}\n{said}")
        lines.append(f'next: slmops run {folder} "..." --engine {best.engine}')
    rest = f"{len(found.unmeasured)} were not needed or not reached, {len(found.dropped)} dropped by prediction"
    lines.append(f"{found.stopped}; {len(found.trials)} measured in {found.seconds:.0f} s; {rest} (slmops plan --all)")
    lines.append("->: the choice; *: on the front of divergence, size and speed; x of a gate: failed, ?: undecided")
    return "\n\n".join(lines)
