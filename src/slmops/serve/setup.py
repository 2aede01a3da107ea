"""What a server serves, as a file says it: setup.schema.json has its keys. One without faults, or none of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slmops.core import hosts, yaml12
from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.units import parse_seconds, parse_size
from slmops.registry import policy, references
from slmops.serve.names import Entry, Remote

MANUAL = "docs/serving.md"
ALWAYS = "always"
OPTIONS = ("device", "context", "parallel", "threads", "kv")
URL = re.compile(r"https?://")
FROM_URL = re.compile(r"(?:((?!https?://)[^=]*)=)?(https?://.*)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
MOST_NAME = 300
"""Letters of a model's name at another server."""


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
    """NAME=MODEL or MODEL: a folder, called by its last part, a name of the registry, or a model of another server,
    URL#MODEL. Raises SourceNotFound, UsageError."""
    if (match := FROM_URL.fullmatch(text)) is not None:
        there = remote(match[2])
        return dataclasses.replace(usual, name=match[1] or there.model, source=there)
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


def remote(text: str, key_env: str | None = None, plain: bool = False) -> Remote:
    """URL#MODEL; nothing is asked. plain: whether what is sent may be read on its way. Raises UsageError."""
    from slmops.registry import _http

    url, _, model = text.partition("#")
    host = urlsplit(_http.checked(url)).hostname or ""
    if "?" in url or not 0 < len(model) <= MOST_NAME or not model.isprintable():
        cure = "https://host/v1#model, the model as GET /v1/models has it"
        raise UsageError(f"{text[:200]!r} names no model of another server", cure)
    if url.startswith("http:") and not plain and not hosts.own(host):
        raise UsageError(
            f"what is sent to {url[:200]}, keys too, can be read on its way", "https://, or plain_http: true in the --config"
        )
    return Remote(url.rstrip("/"), model, key_env)


def keyed(entries: Sequence[Entry], texts: Sequence[str]) -> list[Entry]:
    """Entries with the keys of other servers: NAME=VARIABLE, some times. Raises UsageError."""
    found = {one.name: one for one in entries}
    for text in texts:
        name, _, variable = text.partition("=")
        entry = found.get(name)
        if entry is None or not isinstance(entry.source, Remote) or VARIABLE.fullmatch(variable) is None:
            raise UsageError(f"{name[:200]}: no model of another server, or no variable", "--upstream-key big=BIG_API_KEY")
        found[name] = dataclasses.replace(entry, source=dataclasses.replace(entry.source, key_env=variable))
    return [found.get(one.name, one) for one in entries]


def adapted(entries: Sequence[Entry], texts: Sequence[str]) -> list[Entry]:
    """The one model with these adapters: NAME=FOLDER, some times. Raises SourceNotFound, UsageError."""
    found: dict[str, Path] = {}
    for text in texts:
        name, _, place = text.partition("=")
        if not name or not place or name in found:
            raise UsageError(f"{text[:200]!r} is no adapter", "--adapter billing=FOLDER, each name once")
        found[name] = _adapter(Path(place))
    if found and (len(entries) != 1 or isinstance(entries[0].source, Remote)):
        raise UsageError("--adapter is for the one model that is named", "adapters of several models stand in the --config")
    return [dataclasses.replace(one, adapters=tuple(found.items())) if found else one for one in entries]


def _adapter(folder: Path) -> Path:
    """Raises SourceNotFound."""
    if not folder.is_dir():
        raise SourceNotFound(f"there is no folder {folder}", "a LoRA as PEFT's save_pretrained writes it")
    return folder


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
    text = said.get("source", said["name"])
    source: Path | Remote | str
    if URL.match(text):
        _apart(said, ("engine", "adapters", *OPTIONS), "is of a model that is computed here, and it is another server's")
        source = remote(text, said.get("key_env"), said.get("plain_http", False))
    else:
        _apart(said, ("key_env", "plain_http"), "is of a model of another server, and its source is no URL")
        source = place_of(text, folder)
    return Entry(
        said["name"],
        source,
        said.get("engine", usual.engine),
        options,
        said.get("queue", usual.queue),
        said.get("pin", False),
        keep_alive(said["keep_alive"]) if "keep_alive" in said else usual.keep_alive,
        tuple((name, _adapter(folder / place)) for name, place in said.get("adapters", {}).items()),
    )


def _apart(said: Mapping[str, Any], keys: Sequence[str], why: str) -> None:
    """Raises UsageError for a key that makes no sense in this entry."""
    if wrong := next((key for key in keys if key in said), None):
        raise UsageError(f"{said['name']}: {wrong} {why}", "leave it out")
