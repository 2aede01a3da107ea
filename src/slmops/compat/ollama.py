"""Ollama's command line, as slmops' verbs. Read: cmd/cmd.go of main, 2026-08."""

from __future__ import annotations

from collections.abc import Sequence

from slmops.compat import Native
from slmops.compat._line import Command, Line, plain
from slmops.core.errors import Unsupported, UsageError

TITLE = "Ollama (main of 2026-08)"
NOUN = "command"
TABLE = {
    "serve": ("ours", "slmops serve --port 11434: Ollama's clients connect unchanged, and OpenAI's too"),
    "run": ("ours", "slmops run MODEL PROMPT, or slmops chat MODEL; what is absent is pulled and compiled"),
    "create": ("ours", "slmops models create NAME --modelfile FILE --quantize SCHEME"),
    "show": ("ours", "slmops models show"),
    "list, ls": ("ours", "slmops models ls"),
    "ps": ("ours", "slmops ps"),
    "pull": ("ours", "slmops models pull; of the Hugging Face Hub and of OCI registries, not of Ollama's library"),
    "push": ("ours", "slmops models push NAME oci:NAME"),
    "cp": ("ours", "slmops models tag"),
    "rm": ("ours", "slmops models rm"),
    "stop": ("no need", "models go when they are not used; POST /api/generate with keep_alive 0 unloads one at once"),
    "signin, signout": ("not done", "there is no account; credentials of registries are docker's (docs/registry.md)"),
    "launch": ("not done", "point the other program at slmops serve"),
}
LIBRARY = (
    "Ollama's own library is not asked: a model that is not in the registry is named as on the Hugging Face Hub, org/name"
)


def translate(words: Sequence[str]) -> Native:
    """Ollama's words after `ollama`. Raises UsageError for what is not known, Unsupported for what is not done."""
    command, rest = words[0], words[1:]
    if command in ("signin", "signout", "login", "logout", "launch"):
        key = "launch" if command == "launch" else "signin, signout"
        raise Unsupported(f"ollama {command} is not done", TABLE[key][1])
    if command not in COMMANDS:
        raise UsageError(f"ollama {command[:40]} is not known here", f"one of: {', '.join(COMMANDS)}")
    parser = Line(f"ollama {command}")
    return COMMANDS[command](parser, list(rest))


def _model(text: str) -> tuple[list[str], list[str]]:
    """(the model and what goes with it, notes): hf.co/org/name:Q4_K_M is org/name with a variant."""
    from slmops.formats import _hub  # a line is read sooner than this is imported

    spelled = _hub.spelled(text)
    if spelled is None:
        return [text], [] if "/" in text else [LIBRARY]
    name, variant = spelled
    return [name, *(["--variant", variant] if variant else [])], []


def _run(parser: Line, words: list[str]) -> Native:
    parser.add_argument("model")
    parser.add_argument("prompt", nargs="*")
    parser.add_argument("--keepalive")
    parser.add_argument("--format")
    parser.add_argument("--think", nargs="?", const="true")
    for ignored in ("--verbose", "--nowordwrap", "--insecure", "--hidethinking"):
        parser.add_argument(ignored, action="store_true")
    found = parser.parse_intermixed_args(words)
    if found.format or found.think not in (None, "false") or found.insecure:
        raise Unsupported(
            "--format, --think and --insecure of ollama run are not done", "a server takes format: slmops serve"
        )
    model, notes = _model(found.model)
    notes += ["--keepalive is left out: no server stays behind"] if found.keepalive else []
    notes += ["--verbose is left out: --json says how fast it was"] if found.verbose else []
    if not found.prompt:
        if len(model) > 1:
            notes.append(f"slmops run {model[0]} --variant {model[2]} PROMPT fetches that variant the first time")
        return Native(("chat", model[0]), tuple(notes))
    return Native(("run", *model, " ".join(found.prompt)), tuple(notes))


def _create(parser: Line, words: list[str]) -> Native:
    parser.add_argument("name")
    parser.add_argument("-f", "--file", default="Modelfile")
    parser.add_argument("-q", "--quantize")
    found = parser.parse_args(words)
    more = ["--quantize", found.quantize.lower()] if found.quantize else []
    return Native(("models", "create", found.name, "--modelfile", found.file, *more, "--force"))


def _pull(parser: Line, words: list[str]) -> Native:
    parser.add_argument("model")
    parser.add_argument("--insecure", action="store_true")
    found = parser.parse_args(words)
    model, notes = _model(found.model)
    more = ["--plain-http"] if found.insecure else []
    return Native(("models", "pull", *model, *more), (*notes, "slmops run compiles what has no engine yet"))


def _push(parser: Line, words: list[str]) -> Native:
    from slmops.registry._distribution import hosted

    parser.add_argument("model")
    parser.add_argument("--insecure", action="store_true")
    found = parser.parse_args(words)
    name, place = hosted(found.model)
    more = ["--plain-http"] if found.insecure else []
    return Native(("models", "push", str(name), str(place), *more))


def _show(parser: Line, words: list[str]) -> Native:
    parser.add_argument("model")
    for part in ("--license", "--modelfile", "--parameters", "--template", "--system"):
        parser.add_argument(part, action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    found = vars(parser.parse_args(words))
    asked = [key for key, value in found.items() if value is True and key != "verbose"]
    notes = (f"--{asked[0]}: of a server, POST /api/show says it alone",) if asked else ()
    return Native(("models", "show", found["model"]), notes)


def _copy(parser: Line, words: list[str]) -> Native:
    from slmops.registry._distribution import kept

    parser.add_argument("source", metavar="MODEL")
    parser.add_argument("destination", metavar="MODEL")
    found = parser.parse_args(words)
    return Native(("models", "tag", found.source, str(kept(found.destination)), "--force"))


COMMANDS: dict[str, Command] = {
    "run": _run,
    "create": _create,
    "show": _show,
    "list": plain("models", "ls"),
    "ls": plain("models", "ls"),
    "ps": plain("ps"),
    "pull": _pull,
    "push": _push,
    "cp": _copy,
    "rm": plain("models", "rm", more=True),
    "serve": plain("serve", "--port", "11434"),
}
