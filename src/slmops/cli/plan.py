"""slmops plan: which format, scheme and engine could serve a model here, before anything is made; without a model, which
model could. Reads no weight."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slmops.cli import _units

if TYPE_CHECKING:
    from slmops.core.model import Model
    from slmops.plan.decide import Candidate, Limits
    from slmops.plan.hardware import Machine
    from slmops.plan.rank import Ranked
    from slmops.plan.targets import Target

HELP = "list what could serve a model here or on a target, or which model could; with size, memory, speed; reads no weight"
EXAMPLE = "slmops plan samples/home --max-memory 200MB"
SHOWN = 5
"""Models that are shown of a ranking, unless all are asked for."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        help="a folder or file, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision); "
        "without one, the models of the catalogue are ranked",
    )
    parser.add_argument("--task", metavar="TASK", help="without a source: only models made for it (docs/models.md)")
    parser.add_argument("--target", metavar="NAME", help="a described machine instead of this one: a name, or a .toml file")
    _units.add_limits(parser)
    parser.add_argument("--all", action="store_true", help="show what was dropped too, each with the reason")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops import source as sources
    from slmops.cli import _reference
    from slmops.core.errors import UsageError
    from slmops.plan import hardware, targets

    target = targets.load(arguments.target) if arguments.target else None
    if arguments.source is None:
        return _rank(arguments, target)
    if arguments.task is not None:
        raise UsageError("--task chooses among the models of the catalogue", "leave SOURCE out, or --task")
    model = sources.outline(_reference.source(arguments.source))
    limits = _units.limits(arguments, model.parameters)
    formats = _units.formats(arguments) or (target.formats if target else None)
    machine = target.machine if target else hardware.detect()
    found = facts(model, machine, limits, formats, here=target is None)
    print(json.dumps(found, indent=1) if arguments.json else text(found, arguments.all))
    return 0


def _rank(arguments: argparse.Namespace, target: Target | None) -> int:
    import json

    from slmops.core.errors import UsageError
    from slmops.plan import hardware, models, rank

    if arguments.task is not None and arguments.task not in models.TASKS:
        raise UsageError(f"there is no task called {arguments.task!r}", f"one of: {', '.join(models.TASKS)}")
    if "%" in (arguments.max_size or ""):
        raise UsageError("a share of the source's size needs a source", "give bytes: --max-size 2GB")
    machine = target.machine if target else hardware.detect()
    limits = _units.limits(arguments, 0)
    formats = _units.formats(arguments) or (target.formats if target else None)
    found = rank.rank(machine, limits, arguments.task, formats, here=target is None)
    print(json.dumps(_ranking(found, machine, limits), indent=1) if arguments.json else _ranked(found, machine, arguments))
    return 0


def _ranking(found: list[Ranked], machine: Machine, limits: Limits) -> dict[str, Any]:
    import dataclasses

    return {
        "machine": dataclasses.asdict(machine),
        "limits": dataclasses.asdict(limits),
        "models": [
            {
                "name": one.described.name,
                "source": one.described.source,
                "parameters": one.described.model.parameters,
                "licence": one.described.licence,
                "gated": one.described.gated,
                "context": one.described.context,
                "languages": one.described.languages,
                "strengths": list(one.described.strengths),
                "minimum_memory": one.minimum,
                "recommended_memory": one.recommended,
                "choice": _as_dict(one.choice) if one.choice else None,
                "reasons": list(one.reasons),
            }
            for one in found
        ],
    }


def _ranked(found: list[Ranked], machine: Machine, arguments: argparse.Namespace) -> str:
    from slmops.cli import _text

    kept = [one for one in found if one.choice is not None]
    dropped = [one for one in found if one.choice is None]
    how = "measured" if machine.measured else "described"
    use = f" for {arguments.task}" if arguments.task else ""
    lines = [
        f"models{use} on {machine.name} ({_text.size(machine.usable)} of memory, {_text.size(machine.bandwidth)}/s, {how}), "
        f"{arguments.context:,} tokens of context"
    ]
    rows = []
    for one in kept if arguments.all else kept[:SHOWN]:
        choice, model = one.choice, one.described
        assert choice is not None and choice.memory is not None
        rows.append(
            [model.name, _text.count(model.model.parameters), model.licence, f"{choice.format} {choice.scheme}",
             _text.size(choice.size), _text.size(choice.memory.total),
             f"{_text.size(one.minimum)} / {_text.size(one.recommended)}", f"{choice.speed[1]:.3g}", "; ".join(one.reasons)]
        )  # fmt: skip
    if rows:
        header = ["model", "size", "licence", "as", "on disk", "memory", "least / better", "tok/s", "because"]
        lines.append(_text.table(header, rows, "lrllrrrrl"))
        lines.append(
            "least: memory for 4 bits and 2,048 tokens; better: for 8 bits and 8,192. All predicted from the shapes;\n"
            "quality is not: measure it on your own text and cases"
        )
        first = kept[0].described
        lines.append(f"next: slmops plan {first.source}" + (f" --target {machine.name}" if not machine.measured else ""))
    else:
        lines.append("no model of the catalogue is left within these limits")
    if dropped and (arguments.all or not kept):
        lines.append(
            _text.table(["dropped", "because"], [[one.described.name, "; ".join(one.reasons)] for one in dropped], "ll")
        )
    elif dropped or len(kept) > SHOWN:
        more = f"{len(kept) - SHOWN} more would fit, " if len(kept) > SHOWN else ""
        lines.append(f"{more}{len(dropped)} were dropped: --all shows them, each with the reason")
    return "\n\n".join(lines)


def facts(model: Model, machine: Machine, limits: Limits, formats: Sequence[str] | None, here: bool) -> dict[str, Any]:
    """The machine, the limits and every candidate, as data."""
    import dataclasses

    from slmops.plan import decide

    found = decide.candidates(model, machine, limits, formats, here=here)
    return {
        "name": model.name,
        "parameters": model.parameters,
        "machine": dataclasses.asdict(machine),
        "limits": dataclasses.asdict(limits),
        "candidates": [_as_dict(one) for one in found],
        "relax": decide.relax(found, limits) if all(one.dropped for one in found) else [],
    }


def _as_dict(one: Candidate) -> dict[str, Any]:
    memory = one.memory
    return {
        "format": one.format,
        "scheme": one.scheme,
        "engine": one.engine,
        "kv": one.kv,
        "bytes": one.size,
        "bits_per_weight": round(one.bits, 3),
        "memory": None if memory is None else {"low": memory.low, "likely": memory.total, "high": memory.high},
        "tokens_per_second": dict(zip(("low", "likely", "high"), (round(n, 2) for n in one.speed), strict=True)),
        "dropped": one.dropped or None,
    }


def where(engine: str, kv: str) -> str:
    """The engine, with the option that it is opened with where that is not its usual KV cache."""
    return engine if kv == "auto" else f"{engine} --kv {kv}"


def text(found: dict[str, Any], everything: bool) -> str:
    """The table for people: what is worth measuring, the fastest first."""
    from slmops.cli import _text

    machine, limits = found["machine"], found["limits"]
    kept = [one for one in found["candidates"] if not one["dropped"]]
    dropped = [one for one in found["candidates"] if one["dropped"]]
    how = "measured" if machine["measured"] else "described"
    lines = [
        f"{found['name']}: {_text.count(found['parameters'])} parameters, for {machine['name']} "
        f"({_text.size(machine['usable'])} of memory, {_text.size(machine['bandwidth'])}/s, {how}), "
        f"{limits['context']:,} tokens of context"
    ]
    if kept:
        rows = []
        for one in kept:
            memory, speed = one["memory"], one["tokens_per_second"]
            rows.append(
                [one["format"].replace("_", "-"), one["scheme"], where(one["engine"], one["kv"]), _text.size(one["bytes"]),
                 f"{one['bits_per_weight']:.2f}", f"{_text.size(memory['low'])} to {_text.size(memory['high'])}",
                 f"{speed['low']:.3g} to {speed['high']:.3g}"]
            )  # fmt: skip
        header = ["format", "scheme", "engine", "size", "bits", "memory", "tokens/s"]
        lines.append(_text.table(header, rows, "lllrrrr"))
        lines.append("predicted, nothing was read or run: slmops convert makes one, slmops verify proves it")
    else:
        lines.append("nothing is left within these limits" + "".join(f"\n- {hint}" for hint in found["relax"]))
    if dropped and (everything or not kept):
        rows = [[one["format"].replace("_", "-"), one["scheme"], one["dropped"]] for one in dropped]
        lines.append(_text.table(["dropped", "scheme", "because"], rows, "lll"))
    elif dropped:
        lines.append(f"{len(dropped)} more were dropped: --all says why")
    return "\n\n".join(lines)
