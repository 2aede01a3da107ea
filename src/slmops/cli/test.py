"""slmops test: a user's own checks on an artifact."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slmops.measure.checks import Result

HELP = "run your own checks of a YAML file on an artifact: answers, formats, invalid input, latency, memory over long use"
EXAMPLE = "slmops test out/gguf samples/home/checks.yaml"
MARKS = {True: "+", False: "x", None: "?"}
CLIP = 110
"""Characters of a line in the table; --json has all."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", help="a folder of slmops, a name in the registry, or a Hugging Face folder (needs PyTorch)"
    )
    parser.add_argument("checks", metavar="CHECKS.yaml", help="the checks (docs/checks.md)")
    parser.add_argument("--engine", help="an engine by name; default: the preferred one that is installed")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where the engine runs")
    parser.add_argument("--junit", metavar="FILE", help="also write the results as JUnit XML, for CI")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import json
    from pathlib import Path

    from slmops import run as runner
    from slmops.cli import _reference
    from slmops.cli._progress import Progress
    from slmops.core.errors import CheckFailed, SourceNotFound
    from slmops.measure import checks

    if arguments.junit and not Path(arguments.junit).absolute().parent.is_dir():
        raise SourceNotFound(f"there is no folder for {arguments.junit}", "make it first")
    asked = checks.read(Path(arguments.checks))
    artifact = runner.Artifact.open(_reference.folder(arguments.artifact))
    progress = Progress(quiet=arguments.json)
    results = []
    with checks.Subject(artifact, arguments.engine, arguments.device, asked.context) as subject:
        engine = subject.engine
        for number, one in enumerate(asked.checks, 1):
            progress.say(f"{number} of {len(asked.checks)}: {one.name}")
            results.append(checks.examine(one, subject))
    if arguments.junit:
        _junit(Path(arguments.junit), arguments.artifact, engine, results)
    if arguments.json:
        facts = {"artifact": arguments.artifact, "engine": engine, "checks": [dataclasses.asdict(one) for one in results]}
        print(json.dumps(facts, indent=1))
    else:
        print(_shown(results, engine))
    if failed := [one for one in results if one.passed is not True]:
        names = "; ".join(f"{asked.path}, line {one.line}: {one.name}" for one in failed)
        raise CheckFailed(f"{len(failed)} of {len(results)} checks did not hold", names)
    return 0


def _shown(results: list[Result], engine: str) -> str:
    from slmops.cli import _text

    rows = []
    for one in results:
        first, *others = one.said.splitlines() or [""]
        rows.append([MARKS[one.passed], one.name, one.kind, f"{one.seconds:.1f} s", first[:CLIP]])
        rows += [["", "", "", "", line[:CLIP]] for line in others]
    held = sum(one.passed is True for one in results)
    return (
        _text.table(["", "check", "kind", "time", "found"], rows, "lllrl")
        + f"\n\n{held} of {len(results)} hold in {engine}; x: failed, ?: undecided, which counts as failed"
    )


def _junit(path: Path, name: str, engine: str, results: list[Result]) -> None:
    """As CI systems read it (the XML of Ant's and Maven's reports)."""
    import re
    from xml.etree import ElementTree

    def clean(text: str) -> str:  # what XML 1.0 cannot hold, a model can say
        return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)

    failed = sum(one.passed is not True for one in results)
    total = f"{sum(one.seconds for one in results):.3f}"
    counts = {"tests": str(len(results)), "failures": str(failed), "errors": "0", "skipped": "0", "time": total}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": clean(f"{name} in {engine}"), **counts})
    for one in results:
        facts = {"classname": one.kind, "name": clean(one.name), "time": f"{one.seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", facts)
        if one.passed is not True:
            kind = {
                "message": clean((one.said.splitlines() or [""])[0]),
                "type": "failed" if one.passed is False else "undecided",
            }
            ElementTree.SubElement(case, "failure", kind).text = clean(one.said)
        else:
            ElementTree.SubElement(case, "system-out").text = clean(one.said)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
