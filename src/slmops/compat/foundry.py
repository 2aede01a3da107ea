"""Foundry Local's command line, as slmops' verbs: `foundry model|cache|service ...` of its preview (Microsoft Learn)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from slmops.compat import Native
from slmops.compat._line import Command, Line, plain
from slmops.core.errors import Unsupported, UsageError

TITLE = "Foundry Local (command line of its preview)"
NOUN = "command"
TABLE = {
    "model run": ("ours", "slmops run MODEL PROMPT, or slmops chat MODEL"),
    "model list, ls": ("ours", "slmops models search --source foundry"),
    "model download": (
        "ours",
        "slmops models pull, of the Hugging Face Hub; Foundry's catalogue is searched, not fetched from",
    ),
    "model info": ("ours", "slmops models show"),
    "model load, unload": (
        "no need",
        "a model is loaded when it is asked for; a server has /models/load/NAME too",
    ),
    "cache list, ls": ("ours", "slmops models ls"),
    "cache remove, rm": ("ours", "slmops models rm"),
    "cache cd, location": ("not done", "where the registry lies is the environment's to say: SLMOPS_HOME"),
    "service start": ("ours", "slmops serve: Foundry's routes, OpenAI's and Ollama's"),
    "service ps": ("ours", "slmops ps"),
    "service status": ("ours", "slmops ps; GET /status of a server"),
    "service stop, restart, diag, set": ("not done", "the server runs in the foreground: Ctrl-C or SIGTERM ends it"),
}


def translate(words: Sequence[str]) -> Native:
    """Foundry's words after `foundry`. Raises UsageError for what is not known, Unsupported for what is not done."""
    room, command = words[0], words[1] if len(words) > 1 else ""
    rest = list(words[2:])
    if room == "cache" and command in ("cd", "location"):
        cure = f"export SLMOPS_HOME={shlex.quote(rest[0])}" if rest else "docs/registry.md has its default"
        raise Unsupported(f"cache {command} is not done: {TABLE['cache cd, location'][1]}", cure)
    if (room, command) in (("model", "load"), ("model", "unload")):
        raise Unsupported(f"model {command} is not done here", TABLE["model load, unload"][1])
    if room == "service" and command in ("stop", "restart", "diag", "set"):
        raise Unsupported(f"service {command} is not done", TABLE["service stop, restart, diag, set"][1])
    if (room, command) not in COMMANDS:
        known = ", ".join(" ".join(one) for one in COMMANDS)
        raise UsageError(f"foundry {room} {command}".rstrip()[:80] + " is not known here", f"one of: {known}")
    return COMMANDS[room, command](Line(f"foundry {room} {command}"), rest)


def _run(parser: Line, words: list[str]) -> Native:
    parser.add_argument("model")
    parser.add_argument("--prompt")
    parser.add_argument("--device", choices=("CPU", "GPU", "NPU", "cpu", "gpu", "npu"))
    parser.add_argument("--ttl", type=int)
    for ignored in ("--verbose", "--retain", "--interactive", "--no-interactive"):
        parser.add_argument(ignored, action="store_true")
    found = parser.parse_args(words)
    notes = ["--ttl and --retain are left out: no server stays behind"] if found.ttl or found.retain else []
    if "/" not in found.model:
        notes.append("Foundry's aliases are not known: a model that is not in the registry is named org/name, as on the Hub")
    device = ["--device", found.device.lower()] if found.device else []
    if found.prompt:
        return Native(("run", found.model, found.prompt, *device), tuple(notes))
    return Native(("chat", found.model, *device), tuple(notes))


def _listed(parser: Line, words: list[str]) -> Native:
    parser.add_argument("--filter")
    found = parser.parse_args(words)
    if found.filter is None:
        return Native(("models", "search", "--source", "foundry"))
    key, _, value = found.filter.partition("=")
    if key not in ("alias", "name"):
        raise Unsupported(f"--filter {key} is not done", "slmops models search WORD --source foundry")
    return Native(("models", "search", value.strip("*"), "--source", "foundry"))


COMMANDS: dict[tuple[str, str], Command] = {
    ("model", "run"): _run,
    ("model", "list"): _listed,
    ("model", "ls"): _listed,
    ("model", "download"): plain("models", "pull", given=1),
    ("model", "info"): plain("models", "show", given=1),
    ("cache", "list"): plain("models", "ls"),
    ("cache", "ls"): plain("models", "ls"),
    ("cache", "remove"): plain("models", "rm", given=1),
    ("cache", "rm"): plain("models", "rm", given=1),
    ("service", "start"): plain("serve"),
    ("service", "ps"): plain("ps"),
    ("service", "status"): plain("ps"),
}
