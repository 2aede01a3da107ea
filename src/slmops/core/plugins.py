"""The folder is the registry: a plugin is found by listing its folder and imported only when it is asked for.

Rooms are packages below `slmops` (`architectures`, `formats`, `engines`, `quantize`, `passes`, `compat`, `executors`,
`catalogues`, `cli`, `cli._models`, `cli._pipeline`, `cli._keys`, `cli._audit`, `measure.scorers`, `measure.checks`,
`pipeline.steps`, `registry.remotes`, `serve.tools`, `serve.wire`). A file whose name starts with an underscore is furniture
of the room, not a plugin. Packages outside add theirs by an entry point in the group `slmops.<room>`, whose name is the
plugin's and whose value is a module.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType

from slmops.core.errors import UsageError

WORDS = {
    "architectures": "family",
    "formats": "format",
    "engines": "engine",
    "quantize": "scheme",
    "cli": "verb",
    "cli._models": "sub-verb of models",
    "serve.wire": "wire format",
    "serve.tools": "notation of tool calls",
    "compat": "tool",
    "executors": "executor",
    "measure.scorers": "scorer",
    "measure.checks": "kind of check",
    "registry.remotes": "kind of remote",
    "pipeline.steps": "kind of step",
    "cli._pipeline": "sub-verb of pipeline",
    "cli._keys": "sub-verb of keys",
    "cli._audit": "sub-verb of audit",
    "catalogues": "catalogue",
}

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def _listings() -> tuple[str, ...]:
    """Entry points of the packages that add to us. importlib.metadata would take 50 ms to say the same."""
    found = (listing for place in sys.path for listing in Path(place or ".").glob("*.*-info/entry_points.txt"))
    texts = (listing.read_text(encoding="utf-8", errors="replace") for listing in found)
    return tuple(text for text in texts if "[slmops." in text)


@functools.cache
def _outside(room: str) -> dict[str, str]:
    """Entry points of one group, name -> module."""
    found: dict[str, str] = {}
    for text in _listings():
        if f"[slmops.{room}]" in text:
            section = text.split(f"[slmops.{room}]", 1)[1].split("[", 1)[0]
            pairs = [line.split("=", 1) for line in section.splitlines() if "=" in line]
            found.update({name.strip(): module.strip() for name, module in pairs})
    return found


@functools.cache
def names(room: str) -> tuple[str, ...]:
    """Names of all plugins of a room, sorted; nothing is imported."""
    folder = ROOT / room.replace(".", "/")
    own = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return tuple(sorted(own | set(_outside(room))))


@functools.cache
def load(room: str, name: str) -> ModuleType:
    """Import one plugin. Raises UsageError naming the ones that exist when there is none of that name."""
    if name not in names(room):
        raise UsageError(f"there is no {WORDS.get(room, room)} called {name!r}", f"one of: {', '.join(names(room))}")
    own = ROOT / room.replace(".", "/") / f"{name}.py"
    return importlib.import_module(f"slmops.{room}.{name}" if own.exists() else _outside(room)[name])
