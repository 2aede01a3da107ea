"""What a server serves, as a file says it: setup.schema.json has its keys. One without faults, or none of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.core import yaml12
from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.units import parse_seconds, parse_size
from slmops.registry import policy, references
from slmops.serve.names import Entry

MANUAL = "docs/serving.md"
ALWAYS = "always"
OPTIONS = ("device", "context", "parallel", "threads", "kv")


@dataclass(frozen=True)
class Setup:
    """What is served."""

    entries: tuple[Entry, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rest: Entry | None = None
    """How what the registry has besides is served; None: it is not."""
    memory: int | None = None
    warm: bool = False


def entry(text: str, usual: Entry) -> Entry:
    """NAME=MODEL or MODEL: a folder, called by its last part, or a name of the registry. Raises SourceNotFound."""
    name, _, place = text.rpartition("=")
    source = place_of(place)
    called = name or (source.resolve().name if isinstance(source, Path) else source)
    return dataclasses.replace(usual, name=called, source=source)


def place_of(text: str, folder: Path | None = None) -> Path | str:
    """A path, from `folder`, where there is something; else a reference of the registry. Raises SourceNotFound."""
    path = (folder or Path()) / text
    try:
        if path.exists():
            return path
    except OSError:
        pass
    if references.parse(text) is None and references.SHORT.fullmatch(text) is None:
        raise SourceNotFound(f"there is no folder {text}", "a folder, or a name that slmops models ls shows")
    return text


def keep_alive(text: str | int) -> float | None:
    """Seconds of 90s, 10m or 2h; None for `always`. Raises UsageError."""
    return None if text == ALWAYS else parse_seconds(str(text))


def aliases(texts: Sequence[str]) -> dict[str, str]:
    """ALIAS=NAME, some times. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        alias, sign, name = text.partition("=")
        if not (alias and sign and name) or alias in found:
            raise UsageError(f"{text!r} is no alias", "--alias production=home:q4, each alias once")
        found[alias] = name
    return found


def read(path: Path, usual: Entry) -> Setup:
    """A file. usual: what entries are where it does not say. Raises SourceNotFound, CorruptInput naming the line, and
    UsageError."""
    value, places = yaml12.located(path, MANUAL)
    said: dict[str, Any] = {} if value is None else value
    policy.check(path, said, places, schema(), MANUAL)
    if "keep_alive" in said:
        usual = dataclasses.replace(usual, keep_alive=keep_alive(said["keep_alive"]))
    entries = tuple(_entry(one, usual, path.parent) for one in said.get("models", ()))
    further = {alias: one["name"] for one in said.get("models", ()) for alias in one.get("alias", ())}
    memory = said.get("memory")
    return Setup(
        entries,
        {**further, **said.get("aliases", {})},
        usual if said.get("registry", not entries) else None,
        parse_size(memory) if isinstance(memory, str) else memory,
        said.get("warm", False),
    )


def schema() -> dict[str, Any]:
    """The JSON schema of the file."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("setup.schema.json").read_text(encoding="utf-8"))
    return found


def _entry(said: Mapping[str, Any], usual: Entry, folder: Path) -> Entry:
    options = dataclasses.replace(usual.options, **{key: said[key] for key in OPTIONS if key in said})
    return Entry(
        said["name"],
        place_of(said.get("source", said["name"]), folder),
        said.get("engine", usual.engine),
        options,
        said.get("queue", usual.queue),
        said.get("pin", False),
        keep_alive(said["keep_alive"]) if "keep_alive" in said else usual.keep_alive,
    )
