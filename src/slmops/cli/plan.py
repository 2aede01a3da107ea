"""slmops plan: which format, scheme and engine could serve a model here, before anything is made. Reads no weight."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slmops.cli import _units

if TYPE_CHECKING:
    from slmops.core.model import Model
    from slmops.plan.decide import Candidate, Limits
    from slmops.plan.hardware import Machine

HELP = "list what could serve a model here or on a target, with predicted size, memory and speed; reads no weight"
EXAMPLE = "slmops plan samples/home --max-memory 200MB"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder or file, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision)")
    parser.add_argument("--target", metavar="NAME", help="a described machine instead of this one: a name, or a .toml file")
    _units.add_limits(parser)
    parser.add_argument("--all", action="store_true", help="show what was dropped too, each with the reason")


def run(arguments: argparse.Namespace) -> int:
    import json

    from slmops import source as sources
    from slmops.plan import hardware, targets

    target = targets.load(arguments.target) if arguments.target else None
    model = sources.outline(arguments.source)
    limits = _units.limits(arguments, model.parameters)
    formats = _units.formats(arguments) or (target.formats if target else None)
    machine = target.machine if target else hardware.detect()
    found = facts(model, machine, limits, formats, here=target is None)
    print(json.dumps(found, indent=1) if arguments.json else text(found, arguments.all))
    return 0


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
        "bytes": one.size,
        "bits_per_weight": round(one.bits, 3),
        "memory": None if memory is None else {"low": memory.low, "likely": memory.total, "high": memory.high},
        "tokens_per_second": dict(zip(("low", "likely", "high"), (round(n, 2) for n in one.speed), strict=True)),
        "dropped": one.dropped or None,
    }


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
                [one["format"].replace("_", "-"), one["scheme"], one["engine"], _text.size(one["bytes"]),
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
