#!/usr/bin/env python3
"""How good are the planner's predictions, and how long do they take?

    python bench/planner.py time CHECKPOINT... [--before SRC] [--repeat 5] [--json FILE]
    python bench/planner.py read CHECKPOINT... --out FOLDER --json READINGS [--format gguf,onnx] [--scheme q4,q8,f16]
                                 [--context 512] [--engine NAME]
    python bench/planner.py show READINGS... [--write]

time: wall and processor seconds of `slmops plan CHECKPOINT`, a fresh process each time; --before names the `src` folder of
another version, run in turn with this one (A B A B), of which the ratio is taken.

read: writes each checkpoint in each format and scheme (kept in --out), opens it in every engine here, fills a context with
one prompt but for the tokens that it generates, and notes the peak of the engine's process (ru_maxrss) beside what was
predicted. READINGS grows: what it holds already is not measured again. Takes minutes; a busy machine disturbs speeds, not
memory.

show: measured over predicted memory, engine by engine. --write puts the spread of each engine where the planner reads it
(src/slmops/plan/spread.json): that is how its intervals are learned.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent.parent / "src"


def times(a: argparse.Namespace) -> None:
    rows, facts = [], []
    sides = {"now": HERE, **({"before": a.before.resolve()} if a.before else {})}
    for folder in a.checkpoint:
        taken: dict[str, list[harness.Usage]] = {side: [] for side in sides}
        for turn in range(a.repeat + 1):
            for side, source in sides.items():
                # Bytecode is kept as an installed package keeps it.
                environment = {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": a.bytecode}
                usage = harness.run([sys.executable, "-m", "slmops", "plan", folder], env=environment)
                taken[side] += [usage] if turn else []
        row = [folder.name]
        for side in ("before", "now"):
            runs = taken.get(side, [])
            row += [f"{harness.median([each.wall for each in runs]):.2f}" if runs else "-"]
            row += [f"{harness.median([each.cpu for each in runs]):.2f}" if runs else "-"]
        both = a.before and harness.ratio([one.cpu for one in taken["now"]], [one.cpu for one in taken["before"]])
        others = harness.median([one.others for one in taken["now"]])
        rows.append([*row, harness.show(both) if both else "-", f"{others:.1f}"])
        facts.append(
            {"checkpoint": folder.name, **{side: [harness.dump(one) for one in runs] for side, runs in taken.items()}}
        )
    head = ["checkpoint", "before: wall s", "CPU s", "now: wall s", "CPU s", "CPU, now over before", "others' CPUs"]
    print(harness.table(head, rows))
    harness.write_json(a.json, {"machine": harness.machine(), "runs": facts})


NEW = 16  # tokens that are generated behind the prompt


def read(a: argparse.Namespace) -> None:
    sys.path.insert(0, str(HERE))
    from slmops import compile as compiler
    from slmops import run, source
    from slmops.core import plugins
    from slmops.core.errors import SlmopsError
    from slmops.engines import Options, Sampling, _installed
    from slmops.plan import memory

    found = json.loads(a.json.read_text()) if a.json.is_file() else []
    known = {(one["checkpoint"], one["format"], one["scheme"], one["engine"], one["context"]) for one in found}
    for folder in a.checkpoint:
        model = source.load(folder)
        for form in a.format.split(","):
            for scheme in a.scheme.split(","):
                engines = [name for name in _installed.engines_for(form) if _installed.installed(name)]
                wanted = [
                    (name, context)
                    for name in engines
                    for context in map(int, a.context.split(","))
                    if (folder.name, form, scheme, name, context) not in known and a.engine in (None, name)
                ]
                if not wanted:
                    continue
                out = a.out / folder.name / f"{form}-{scheme}"
                try:
                    compiler.convert(model, [form], scheme, out, verify=False)
                    weights = memory.weights(model, form, scheme)
                except SlmopsError as error:
                    print(f"{folder.name} {form} {scheme}: {error}", file=sys.stderr)
                    continue
                for name, context in wanted:
                    engine = plugins.load("engines", name).FOOTPRINT
                    taken = memory.of(model.spec, form, scheme, context, weights, model.parameters, (name, engine))
                    try:
                        with run.open_worker(
                            run.Artifact.open(out), name, Options(threads=a.threads, context=context)
                        ) as worker:
                            tokens = worker.generate([5] * (context - NEW), Sampling(max_tokens=NEW))
                            stamps = [token.seconds for token in tokens if token.id is not None]
                            peak = worker.memory()["peak"]
                    except SlmopsError as error:
                        print(f"{folder.name} {form} {scheme} in {name}: {error}", file=sys.stderr)
                        continue
                    found.append(
                        {"checkpoint": folder.name, "format": form, "scheme": scheme, "engine": name, "context": context,
                         "weights": weights, "parameters": model.parameters, "spec": dict(model.config),
                         "file": harness.size(out), "peak": peak, "predicted": taken.total, "kv_cache": taken.kv_cache,
                         "overhead": taken.overhead, "first_token": stamps[0],
                         "decode": (len(stamps) - 1) / (stamps[-1] - stamps[0]), "load_average": os.getloadavg()[0]}
                    )  # fmt: skip
                    harness.write_json(a.json, found)
                    print(f"{folder.name} {form} {scheme} {name} {context}: {peak / taken.total:.3f}", flush=True)


def show(a: argparse.Namespace) -> None:
    """Against what the planner says now: a reading holds its own prediction only as a record."""
    sys.path.insert(0, str(HERE))
    from slmops.core import plugins
    from slmops.plan import memory

    found = [one for path in a.readings for one in json.loads(path.read_text())]
    for one in found:
        spec = plugins.load("architectures", one["spec"]["model_type"]).spec(one["spec"])
        where = (one["engine"], plugins.load("engines", one["engine"]).FOOTPRINT)
        taken = memory.of(spec, one["format"], one["scheme"], one["context"], one["weights"], one["parameters"], where)
        one["predicted"] = taken.total
    rows, spreads = [], {}
    for engine in sorted({one["engine"] for one in found}):
        own = [one for one in found if one["engine"] == engine]
        ratios = sorted(one["peak"] / one["predicted"] for one in own)
        shapes = sorted({one["checkpoint"] for one in own})
        ends = {"least": round(ratios[0], 3), "greatest": round(ratios[-1], 3)}
        spreads[engine] = {"readings": len(ratios), "shapes": len(shapes), **ends}
        off = sum(abs(ratio - 1) > 0.15 for ratio in ratios)
        rows.append([engine, str(len(ratios)), ", ".join(shapes), f"{harness.median(ratios):.2f}",
                     f"{ratios[0]:.2f} to {ratios[-1]:.2f}", str(off)])  # fmt: skip
    print(harness.table(["engine", "readings", "shapes", "median", "range", "beyond 15 %"], rows))
    print()
    head = ["shape", "format", "scheme", "engine", "context", "predicted MB", "measured MB", "ratio"]
    order = sorted(found, key=lambda one: (one["engine"], one["checkpoint"], one["format"], one["scheme"], one["context"]))
    cells = [
        [*(str(one[key]) for key in ("checkpoint", "format", "scheme", "engine", "context")),
         f"{one['predicted'] / 1e6:.0f}", f"{one['peak'] / 1e6:.0f}", f"{one['peak'] / one['predicted']:.2f}"]
        for one in order
    ]  # fmt: skip
    print(harness.table(head, cells))
    if a.write:
        harness.write_json(HERE / "slmops" / "plan" / "spread.json", spreads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("time")
    one.add_argument("checkpoint", type=Path, nargs="+")
    one.add_argument("--before", type=Path, help="the src folder of another version")
    one.add_argument("--bytecode", default=os.environ.get("PYTHONPYCACHEPREFIX", ""), help=argparse.SUPPRESS)
    one.set_defaults(do=times)
    one.add_argument("--repeat", type=int, default=5)
    one.add_argument("--json", type=Path)
    one = verbs.add_parser("read")
    one.add_argument("checkpoint", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--json", type=Path, required=True)
    one.add_argument("--format", default="gguf,onnx,openvino,compressed_tensors,mlx")
    one.add_argument("--scheme", default="q4,q8,f16")
    one.add_argument("--context", default="512")
    one.add_argument("--engine")
    one.add_argument(
        "--threads", type=int, help="of each engine; 1 on a machine that is busy, where speeds say nothing anyway"
    )
    one.set_defaults(do=read)
    one = verbs.add_parser("show")
    one.add_argument("readings", type=Path, nargs="+")
    one.add_argument("--write", action="store_true")
    one.set_defaults(do=show)
    a = parser.parse_args()
    a.do(a)


if __name__ == "__main__":
    main()
