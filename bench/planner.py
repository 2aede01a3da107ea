#!/usr/bin/env python3
"""How good are the planner's predictions, and how long do they take?

    python bench/planner.py time CHECKPOINT... [--before SRC] [--repeat 5] [--json FILE]

time: wall and processor seconds of `slmops plan CHECKPOINT`, a fresh process each time; --before names the `src` folder of
another version, run in turn with this one (A B A B), of which the ratio is taken.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("time")
    one.add_argument("checkpoint", type=Path, nargs="+")
    one.add_argument("--before", type=Path, help="the src folder of another version")
    one.add_argument("--bytecode", default=os.environ.get("PYTHONPYCACHEPREFIX", ""), help=argparse.SUPPRESS)
    one.set_defaults(do=times)
    for each in verbs.choices.values():
        each.add_argument("--repeat", type=int, default=5)
        each.add_argument("--json", type=Path)
    a = parser.parse_args()
    a.do(a)


if __name__ == "__main__":
    main()
