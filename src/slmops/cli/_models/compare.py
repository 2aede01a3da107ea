"""slmops models compare: models side by side, with sizes and the memory planner's word; reads no weight."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.plan.beside import Beside

HELP = "models side by side: sizes by scheme, the memory planner's word, downloads; fetches headers only"
EXAMPLE = "slmops models compare Qwen/Qwen3-0.6B HuggingFaceTB/SmolLM2-360M-Instruct --target raspberry-pi"
MOST = 8
"""Columns that can be read beside each other."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="names of the Hub or of the registry, or folders")
    parser.add_argument("--target", metavar="NAME", help="a described machine instead of this one: a name, or a .toml file")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens that must fit (4096)")


def run(arguments: argparse.Namespace) -> Said:
    from slmops.core.errors import SlmopsError, UsageError
    from slmops.plan import hardware, targets
    from slmops.plan.decide import read_limits

    names = list(dict.fromkeys(arguments.model))
    if not 2 <= len(names) <= MOST:
        raise UsageError(f"{len(names)} models cannot be put side by side", f"give 2 to {MOST}")
    target = targets.load(arguments.target) if arguments.target else None
    machine = target.machine if target else hardware.detect()
    limits = read_limits({"context": arguments.context}, 0)
    found: dict[str, dict[str, Any]] = {}
    faults: list[SlmopsError] = []
    for name in names:
        try:
            found[name] = _facts(name, machine, limits, target.formats if target else None, here=target is None)
        except SlmopsError as error:
            faults.append(error)
            found[name] = {"fault": str(error), "cure": error.cure}
    facts = {"machine": machine.name, "context": arguments.context, "models": found}
    return Said(facts, _shown(found, machine, arguments.context), faults[0] if faults else None)


def _facts(name: str, machine: Any, limits: Any, formats: Any, here: bool) -> dict[str, Any]:
    from slmops import source as sources
    from slmops.cli import _reference
    from slmops.core import receipt
    from slmops.core.errors import SourceNotFound
    from slmops.formats import _hub
    from slmops.plan.beside import beside

    where = _reference.source(name)
    model = sources.outline(where)
    told = _as_dict(beside(model, machine, limits, formats, here))
    path = sources.local(where)
    if path is not None and (path / receipt.NAME).is_file():
        told["licence"] = receipt.load(path)["licence"]  # few formats say it themselves
    if path is None:
        try:
            info = _hub.figures(sources.hub_name(where))
            told |= {"downloads": info.downloads, "likes": info.likes, "gated": bool(info.gated)}
        except SourceNotFound:
            pass  # what is in the cache can be compared without the Hub
    return told


def _as_dict(one: Beside) -> dict[str, Any]:
    import dataclasses

    kept = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "choice"}
    choice = one.choice
    if choice is None:
        return {**kept, "choice": None}
    speed = dict(zip(("low", "likely", "high"), choice.speed, strict=True))
    named = {"format": choice.format, "scheme": choice.scheme, "engine": choice.engine, "kv": choice.kv}
    memory = choice.memory.total if choice.memory else None
    return {**kept, "choice": {**named, "bytes": choice.size, "memory": memory, "tokens_per_second": speed}}


def _shown(found: dict[str, dict[str, Any]], machine: Any, context: int) -> str:
    from slmops.cli import _text
    from slmops.plan import memory

    read = {name: one for name, one in found.items() if "fault" not in one}
    schemes = list(dict.fromkeys(scheme for one in read.values() for scheme in one["sizes"]))

    def row(label: str, tell: Any) -> list[str]:
        return [label, *(tell(one) if "fault" not in one else "" for one in found.values())]

    def size(one: dict[str, Any], kind: str, scheme: str) -> str:
        return _text.size(one[kind][scheme]) if scheme in one[kind] else "-"

    def word(one: dict[str, Any]) -> str:
        best = one["choice"]
        if best is None:
            return f"nothing: {one['against']}"
        scheme = next(iter(one["sizes"])) if best["scheme"] == memory.KEEP else best["scheme"]
        return f"{scheme} in {best['format'].replace('_', '-')}" + ("" if one["fast"] else ", slowly")

    rows = [
        row("family", lambda one: one["family"]),
        row("parameters", lambda one: _text.count(one["parameters"])),
        row("tier", lambda one: one["tier"]),
        row("licence", lambda one: (one["licence"] or "not stated") + (" (gated)" if one.get("gated") else "")),
        row("context", lambda one: f"{one['context']:,}"),
        *(row(f"{scheme}: size", lambda one, scheme=scheme: size(one, "sizes", scheme)) for scheme in schemes),
        *(row(f"{scheme}: memory", lambda one, scheme=scheme: size(one, "memory", scheme)) for scheme in schemes),
        row("fits", word),
        row("tok/s", lambda one: f"{one['choice']['tokens_per_second']['likely']:.3g}" if one["choice"] else "-"),
        row("downloads", lambda one: f"{one['downloads']:,}" if one.get("downloads") is not None else "-"),
    ]
    rows += [["fault", *(one.get("fault", "")[:60] for one in found.values())]] if len(read) < len(found) else []
    how = "measured" if machine.measured else "described"
    title = f"on {machine.name} ({_text.size(machine.usable)} of memory, {how}), {context:,} tokens of context; predicted"
    return f"{title}\n\n{_text.table(['', *found], rows, 'l' * (len(found) + 1))}"
