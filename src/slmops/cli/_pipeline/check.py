"""slmops pipeline check: say what is wrong with a file, each with its line and column; run nothing."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "say what is wrong with a file, each with its line and column; run nothing"
EXAMPLE = "slmops pipeline check home.yaml"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.yaml", help="a pipeline (docs/pipelines.md)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the file")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses
    from pathlib import Path

    from slmops.core.errors import CorruptInput
    from slmops.pipeline import document

    path = Path(arguments.file)
    pipeline, faults = document.examine(path, arguments.set)
    facts = {"file": str(path), "faults": [dataclasses.asdict(one) for one in faults]}
    if pipeline is None:
        lines = [f"{path}:{one.line}:{one.column}: {one.said}" + (f"\n    {one.cure}" if one.cure else "") for one in faults]
        return Said(facts, "\n".join(lines), CorruptInput(f"{path}: {len(faults)} faults", "see the lines above"))
    steps = ", ".join(f"{step.name} ({step.kind})" for step in pipeline.steps)
    needs = f"; --set must give {', '.join(pipeline.unset)}" if pipeline.unset else ""
    facts |= {"pipeline": pipeline.name, "steps": [step.name for step in pipeline.steps], "unset": list(pipeline.unset)}
    return Said(facts, f"{path}: {pipeline.name}: {steps}{needs}")
