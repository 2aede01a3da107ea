"""Two kinds of step as a package outside would add them: found by its entry points, made without a model or an engine."""

from __future__ import annotations

from pathlib import Path

MAKE = """
import json, os, signal, time
from pathlib import Path
from filed import artifact
from slmops.core.errors import GateFailed
from slmops.pipeline.steps import COUNT, STRING, Foreseen, Made, told

HELP = "file a small artifact"
SCHEMA = {"properties": {"fill": told(STRING, "a letter"), "of": told(STRING, "another"), "text": told(STRING, "a file"),
          "killed": told(STRING, "a file: where it is missing, it is made, and the process killed (by signal `number`)"),
          "number": told(COUNT, "a count")}, "required": ["fill"]}
INPUTS = {"of": "artifact", "text": "file"}
CODE, REMEMBERED, JUDGES, ACTS = "1", True, False, False

def check(keys): pass

def outputs(keys): return {"artifact": "artifact", "letters": "text", "count": "number"}

def plan(keys, desk): return Foreseen("a small one")

def run(keys, desk):
    with open(desk.root / "ran", "a") as log:
        log.write(keys["fill"] + "\\n")
    if "killed" in keys and not desk.path(keys["killed"]).exists():
        desk.path(keys["killed"]).touch()
        os.kill(os.getpid(), keys.get("number", signal.SIGKILL))
    source = {"path": str(desk.artifact(keys["of"]))} if "of" in keys else {"path": "/somewhere", "hub": "org/toy"}
    with desk.registry.scratch() as scratch:
        made = artifact(scratch / "made", keys["fill"][0].encode(), source=source)
        digest = desk.registry.add(made, take=True)
    return Made({"artifact": digest, "letters": keys["fill"], "count": len(keys["fill"])}, "filed " + keys["fill"])
"""
REFUSE = """
from slmops.core.errors import GateFailed
from slmops.measure.gates import Verdict
from slmops.pipeline.steps import FLAG, STRING, Foreseen, Made, told

HELP = "refuse, or not"
SCHEMA = {"properties": {"of": told(STRING, "an artifact"), "open": told(FLAG, "let it pass")}, "required": ["of"]}
INPUTS = {"of": "artifact"}
CODE, REMEMBERED, JUDGES, ACTS = "1", False, True, False

def check(keys): pass

def outputs(keys): return {}

def plan(keys, desk): return Foreseen()

def run(keys, desk):
    verdict = Verdict("the door", bool(keys.get("open")), True, "it is as it is")
    return Made(verdicts=(verdict,), fault=None if verdict.passed else GateFailed("the door is shut", "open it"))
"""


def install(folder: Path) -> Path:
    """Lay the package out; its folder belongs on sys.path."""
    (folder / "toykinds-1.dist-info").mkdir(parents=True)
    entries = "[slmops.pipeline.steps]\nmake = toykinds.make\nrefuse = toykinds.refuse\n"
    (folder / "toykinds-1.dist-info" / "entry_points.txt").write_text(entries)
    (folder / "toykinds").mkdir()
    for name, text in {"__init__": "", "make": MAKE, "refuse": REFUSE}.items():
        (folder / "toykinds" / f"{name}.py").write_text(text)
    return folder
