"""slmops pipeline run: run the steps of a file; what was made before is recalled."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slmops.cli._sub import Said

if TYPE_CHECKING:
    from slmops.pipeline.document import Pipeline

HELP = "run the steps of a file; what was made before is recalled"
EXAMPLE = "slmops pipeline run home.yaml --set quantize=q8 --receipt receipt.json"
MARKS = {"made": "+", "recalled": "=", "failed": "x", "not run": "-", "runs": "+", "waits": "?"}
CLIP = 120
"""Characters of a line in the table; --json has all."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.yaml", help="a pipeline (docs/pipelines.md)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the file (may be repeated)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what each step would do; make and fetch nothing")
    parser.add_argument("--until", metavar="STEP", help="run no step below this one")
    parser.add_argument("--force", action="store_true", help="run every step anew, whatever was made before")
    parser.add_argument("--executor", default="local", metavar="NAME", help="where steps run: local, or ray on a cluster")
    parser.add_argument("--receipt", metavar="FILE", help="write what came of it as one JSON document, failed or not")


def run(arguments: argparse.Namespace) -> Said:
    import json
    from pathlib import Path

    from slmops.cli._progress import Progress
    from slmops.core import plugins, store
    from slmops.core.errors import SourceNotFound
    from slmops.pipeline import document, running
    from slmops.pipeline.desk import Desk
    from slmops.registry import home

    receipt = Path(arguments.receipt) if arguments.receipt else None
    if receipt is not None and not receipt.absolute().parent.is_dir():
        raise SourceNotFound(f"there is no folder for {receipt}", "make it first")
    plugins.load("executors", arguments.executor)
    pipeline = document.read(Path(arguments.file), arguments.set)
    progress, base = Progress(quiet=arguments.json), pipeline.path.absolute().parent
    with Desk(home(), base, progress.watch(), arguments.executor) as desk:
        if arguments.dry_run:
            found = running.foresee(pipeline, desk, until=arguments.until, force=arguments.force)
            return Said(
                {"pipeline": pipeline.name, "parameters": dict(pipeline.parameters), "steps": found}, _foreseen(found)
            )
        one = running.Run(pipeline, desk, until=arguments.until, force=arguments.force)
        try:
            fault = one.go()
        finally:
            facts = one.receipt()
            if receipt is not None:
                store.write_whole(receipt, json.dumps(facts, indent=1) + "\n")
    return Said(facts, _shown(facts, pipeline), fault)


def _foreseen(found: list[dict[str, Any]]) -> str:
    from slmops.cli import _text

    rows = [[MARKS[one["state"]], one["name"], one["kind"], one["state"], one["said"][:CLIP]] for one in found]
    return _text.table(["", "step", "kind", "would", "what"], rows, "lllll")


def _shown(facts: dict[str, Any], pipeline: Pipeline) -> str:
    from slmops.cli import _text
    from slmops.measure.gates import Verdict

    rows, lines = [], []
    for one in facts["steps"]:
        took = f"{one['seconds']:,.1f} s" if one["state"] in ("made", "failed") and "seconds" in one else ""
        rows.append([MARKS[one["state"]], one["name"], one["kind"], one["state"], took, one.get("said", "")[:CLIP]])
        if verdicts := one.get("verdicts"):
            lines.append("\n".join([f"{one['name']}:", *_text.verdicts(Verdict(**each) for each in verdicts)]))
    table = _text.table(["", "step", "kind", "state", "took", "what came of it"], rows, "llllrl")
    end = f"{pipeline.name}: {facts['state']} in {facts['seconds']:,.1f} s"
    return "\n\n".join([table, *lines, end])
