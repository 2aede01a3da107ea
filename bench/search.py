"""How near does the search of `slmops optimize` come to measuring everything, and in what share of the time?

    python bench/search.py measure samples/home out/search        # every format x scheme x engine here; resumable; long
    python bench/search.py replay samples/home out/search         # the search on those records, in many conditions

`measure` makes, proves and measures each candidate once and notes the seconds. `replay` runs the search as `slmops optimize`
does, but reads each figure from the records: what it says of time is the sum of the noted seconds of what was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import slmops
from slmops import compile as compiler
from slmops import prove, source
from slmops.core import plugins, receipt
from slmops.core.errors import SlmopsError, Unsupported
from slmops.core.model import Model
from slmops.measure import artifact
from slmops.passes.quantize import chooser
from slmops.plan import decide, hardware, memory
from slmops.plan.decide import Candidate, Limits
from slmops.plan.hardware import Machine

CONTEXT = 1024


def schemes() -> tuple[str, ...]:
    """Every scheme that can be made: a file in quantize/, or named by a format as its own."""
    found = []
    for name in plugins.names("quantize"):
        try:
            chooser(name)
        except Unsupported:
            continue
        found.append(name)
    return tuple(dict.fromkeys([*found, *(name for form in memory.writers() for name in decide.schemes_of(form))]))


def listed(model: Model, machine: Machine, limits: Limits, names: tuple[str, ...] | None) -> list[Candidate]:
    """What can be made and run here, and for MLX is more than a stand-in."""
    found = decide.candidates(model, machine, limits, schemes=names)
    return [one for one in found if not one.dropped.startswith("not possible") and not prove.emulated(one.engine)]


def measure(where: str, folder: Path) -> None:
    """Append one line of JSON for each candidate that the records do not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    model, machine = source.load(where), hardware.detect()
    head = folder / "machine.json"
    if not head.exists():
        facts = {"machine": dataclasses.asdict(machine), "kind": receipt.machine(), "slmops": slmops.__version__}
        head.write_text(json.dumps({**facts, "versions": compiler.versions()}, indent=1) + "\n")
    records = folder / "records.jsonl"
    known = {(one["format"], one["scheme"], one["engine"]) for one in _lines(records)}
    todo = [one for one in listed(model, machine, Limits(context=CONTEXT), schemes()) if _name(one) not in known]
    content = (Path(where) / "eval" / "text.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as scratch:
        text = artifact.Text(model, content, Path(scratch))
        for number, one in enumerate(todo):
            print(f"{number + 1}/{len(todo)} {' '.join(_name(one))}", flush=True)
            with records.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(_record(model, one, folder / "made", text)) + "\n")


def _record(model: Model, one: Candidate, made: Path, text: artifact.Text) -> dict[str, Any]:
    found: dict[str, Any] = {"format": one.format, "scheme": one.scheme, "engine": one.engine}
    _ = text.reference  # computed once, and no candidate's own cost
    began = time.perf_counter()
    try:
        (converted,) = compiler.convert(model, [one.format], one.scheme, made / one.scheme / one.format)
        if converted.failure is not None:
            raise converted.failure
        found["made"], began = time.perf_counter() - began if converted.fresh else None, time.perf_counter()
        taken = artifact.measure(converted.folder, one.engine, text=text, context=CONTEXT, runs=5)
    except SlmopsError as error:
        return {**found, "seconds": time.perf_counter() - began, "failure": str(error)}
    return {**found, "seconds": time.perf_counter() - began, "measured": artifact.facts(taken)}


def _name(one: Candidate) -> tuple[str, str, str]:
    return (one.format, one.scheme, one.engine)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("measure",):
        one = verbs.add_parser(verb)
        one.add_argument("source")
        one.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "measure":
        measure(arguments.source, arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
