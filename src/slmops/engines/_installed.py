"""Which engines there are, which are installed, and what is refused before one is opened."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from slmops.core import plugins
from slmops.core.errors import EngineMissing, Unsupported, UsageError
from slmops.engines import Sampling

PLAIN = Sampling()
BEYOND = ("min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "logprobs")
"""Fields of Sampling that not every engine honours."""


WORDS = {"adapt": "load adapters"}
"""What a word of CAN is called."""


@dataclass(frozen=True)
class Installed:
    """An engine that can be used here."""

    name: str
    version: str


def installed(name: str) -> Installed | None:
    """The engine with its version if all it needs is importable (nothing is imported), else None."""
    module = plugins.load("engines", name)
    check = getattr(module, "installed", None)
    if check is not None:
        version = check()
        return Installed(name, version) if version else None
    if any(importlib.util.find_spec(needed) is None for needed in module.MODULES):
        return None
    version = _version(module.PACKAGE)
    return Installed(name, version) if version else None


@functools.cache
def _version(package: str) -> str | None:
    """Of an installed distribution. Asked for each candidate of a plan, and 2 ms each time."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(name: str) -> Installed:
    """`installed`, or EngineMissing with the command that installs it."""
    found = installed(name)
    if found is None:
        raise EngineMissing(f"the engine {name} is not installed", install_command(name))
    return found


def install_command(name: str) -> str:
    """What to type to get an engine."""
    module = plugins.load("engines", name)
    hint: str = getattr(module, "INSTALL", "") or f'pip install "slmops[{module.EXTRA}]"'
    return hint


def engines_for(form: str) -> list[str]:
    """Names of the engines that open this format, installed or not; the preferred one first."""
    found = [(plugins.load("engines", name), name) for name in plugins.names("engines")]
    matching = [(getattr(module, "PREFERENCE", 0), name) for module, name in found if form in module.FORMATS]
    return [name for _, name in sorted(matching, key=lambda item: (-item[0], item[1]))]


def check_kv(name: str, kv: str) -> None:
    """Raise UsageError for a precision of the KV cache that the engine does not have."""
    known = plugins.load("engines", name).KV
    if kv not in known:
        raise UsageError(f"{name} has no KV cache of {kv}", f"one of: {', '.join(known)}")


def check_sampling(name: str, form: str, sampling: Sampling) -> None:
    """Raise Unsupported for what an engine cannot do, naming those of the format that can."""
    asked = {field for field in BEYOND if getattr(sampling, field) != getattr(PLAIN, field)}
    kind = sampling.constraint.kind if sampling.constraint is not None else None

    def lacks(engine: str) -> list[str]:
        module = plugins.load("engines", engine)
        words = [f"constraint {kind}"] if kind is not None and kind not in module.CONSTRAINTS else []
        return [*sorted(asked - module.SAMPLES), *words]

    if missing := lacks(name):
        able = [engine for engine in engines_for(form) if not lacks(engine)]
        cure = f"--engine {' or '.join(able)} can" if able else "another format's engine may: gguf's can do all of it"
        raise Unsupported(f"{name} cannot do this: {', '.join(missing)}", cure)


def check_can(name: str, form: str, word: str) -> None:
    """Raise Unsupported where an engine's CAN lacks the word, naming those of the format that have it."""
    if word not in plugins.load("engines", name).CAN:
        able = [engine for engine in engines_for(form) if word in plugins.load("engines", engine).CAN]
        raise Unsupported(
            f"{name} cannot {WORDS.get(word, word)}", f"--engine {' or '.join(able)} can" if able else "gguf's engines can"
        )


def at_once(name: str, wanted: int) -> int:
    """Options.parallel for so many requests in flight: 1 for engines that have one after the other."""
    return wanted if plugins.load("engines", name).CAN & {"parallel", "turns"} else 1
