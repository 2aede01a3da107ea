"""slmops harness: the tasks of lm-evaluation-harness, answered by an artifact in its engine."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "run tasks of lm-evaluation-harness, where it is installed, with an artifact in its engine as the model"
EXAMPLE = "slmops harness out/gguf arc_easy hellaswag --limit 200"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", help="a folder that slmops wrote, or a Hugging Face folder (needs PyTorch)")
    parser.add_argument("task", nargs="+", help="a task or group by its name there; its data come from the Hub")
    parser.add_argument("--include", metavar="FOLDER", help="with task files of your own (they may run Python code)")
    parser.add_argument("--shots", type=int, metavar="N", help="examples in the prompt (default: the task's own)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N documents of each task")
    parser.add_argument("--chat", action="store_true", help="ask by the model's chat template")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens that the engine is opened for (4096)")
    parser.add_argument("--engine", help="an engine by name; default: the preferred one that is installed")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where the engine runs")


def run(arguments: argparse.Namespace) -> int:
    import importlib.util
    import json
    import os
    import sys
    from pathlib import Path

    from slmops import run as runner
    from slmops.cli import _reference
    from slmops.core.errors import EngineMissing, SourceNotFound, UsageError
    from slmops.engines import Options

    if importlib.util.find_spec("lm_eval") is None:
        raise EngineMissing("lm-evaluation-harness is not installed", 'pip install "slmops[harness]"')
    if arguments.context < 2 or (arguments.limit or 1) < 1 or (arguments.shots or 0) < 0:
        raise UsageError("--context is at least 2, --limit at least 1, --shots at least 0")
    folder = Path(arguments.include) if arguments.include else None
    if folder is not None and not folder.is_dir():
        raise SourceNotFound(f"there is no folder {folder}", "give one with task files")
    artifact = runner.Artifact.open(_reference.folder(arguments.artifact))
    if arguments.chat and artifact.chat_template is None:
        raise UsageError("this model has no chat template", "leave --chat out")
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # for its bootstrap, which would fork this process
    from slmops.measure import harness

    with runner.open_worker(
        artifact, arguments.engine, Options(device=arguments.device, context=arguments.context)
    ) as worker:
        model = harness.Model(worker, artifact, arguments.context)
        found = harness.evaluate(
            model,
            arguments.task,
            folder=folder,
            shots=arguments.shots,
            limit=arguments.limit,
            chat=arguments.chat,
            quiet=arguments.json or not sys.stderr.isatty(),
        )
        engine = worker.engine
    if arguments.json:
        kept = {
            name: found.get(name) for name in ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
        }
        print(json.dumps({"artifact": arguments.artifact, "engine": engine, **kept}, indent=1, default=str))
    else:
        print(_shown(found, engine))
    return 0


def _shown(found: dict[str, Any], engine: str) -> str:
    from slmops.cli import _text

    rows = []
    for task, figures in found["results"].items():
        shots, count = found["n-shot"].get(task, "-"), found["n-samples"].get(task, {}).get("effective", "-")
        for key, value in figures.items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{how}")
            said = f"{value:.4f}" + (f" ±{error:.4f}" if isinstance(error, int | float) else "")
            rows.append([task, metric + ("" if how == "none" else f" ({how})"), str(shots), str(count), said])
    shown = _text.table(["task", "metric", "shots", "documents", "value"], rows, "llrrr")
    return f"{shown}\n\nin {engine}, by lm-evaluation-harness; ±: its standard error"
