"""slmops plan: which format, scheme and engine could serve a model here, before anything is made. Reads no weight."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.plan.decide import Candidate

HELP = "list what could serve a model here or on a target, with predicted size, memory and speed; reads no weight"
EXAMPLE = "slmops plan samples/home --max-memory 200MB"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder or file, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision)")
    parser.add_argument("--target", metavar="NAME", help="a described machine instead of this one: a name, or a .toml file")
    parser.add_argument("--max-size", metavar="BYTES", help="of the artifact: 1GiB, 800MB, or 60%% of the source's weights")
    parser.add_argument("--max-memory", metavar="BYTES", help="of the engine's process at its peak")
    parser.add_argument("--min-speed", metavar="TOK/S", help="of decoding one sequence: 20tok/s")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens that must fit (4096)")
    parser.add_argument("--format", action="append", metavar="NAME", help="only this format (may be repeated)")
    parser.add_argument("--all", action="store_true", help="show what was dropped too, each with the reason")


def run(arguments: argparse.Namespace) -> int:
    import json

    found = facts(arguments)
    print(json.dumps(found, indent=1) if arguments.json else text(found, arguments.all))
    return 0


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine, the limits and every candidate, as data."""
    import dataclasses

    from slmops import source as sources
    from slmops.cli import _units
    from slmops.core import plugins
    from slmops.core.errors import UsageError
    from slmops.plan import decide, hardware, targets

    if arguments.context < 1:
        raise UsageError(f"a context of {arguments.context} tokens makes no sense", "give 1 or more")
    target = targets.load(arguments.target) if arguments.target else None
    machine = target.machine if target else hardware.detect()
    model = sources.load(arguments.source)
    wanted = [name.replace("-", "_") for name in arguments.format or ()]
    for name in wanted:
        plugins.load("formats", name)
    whole = 2 * model.parameters
    limits = decide.Limits(
        size=_units.size(arguments.max_size, whole) if arguments.max_size else None,
        memory=_units.size(arguments.max_memory) if arguments.max_memory else None,
        speed=_units.rate(arguments.min_speed) if arguments.min_speed else None,
        context=arguments.context,
    )
    formats = wanted or (list(target.formats) if target else None)
    found = decide.candidates(model, machine, limits, formats, here=target is None)
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
