"""The receipt: `slmops.json` in every artifact, what it was made from, how, and what was proven of it.

Keys: format, name, scheme, source, step, config, generation, tokenizer {bos, eos, pad, adds_bos, special}, chat_template,
licence, tensors {role: {stored, shape, crc}}, files {name: bytes}, probes, notes, machine, versions, verification;
sensitivities {role: nats a token}, where codes were solved for under gradients; steps {role: step}, where activations are
rounded by them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmops.core import store
from slmops.core.errors import CorruptInput, SourceNotFound

NAME = "slmops.json"
MOST_BYTES = 64 << 20
FORM: Any = {
    "format": str,
    "config": dict,
    "tokenizer": {"bos": int | None, "eos": [int], "adds_bos": bool},
    "chat_template": str | None,
    "tensors": {...: {"shape": [int], "crc": {...: [int]}}},
    "files": {...: int},
    "probes": {"ids": [int], "texts": [(str, [int])], "conversations": [([dict], str)]},
}
"""What verify and serve count on: a type, [one form for all], (a form for each), {key: form}, {...: one form for all}."""


def load(folder: Path) -> dict[str, Any]:
    """The receipt of an artifact. Raises SourceNotFound without one, CorruptInput when it is not one."""
    path = folder / NAME
    if not path.is_file():
        raise SourceNotFound(
            f"{folder} is not an artifact of slmops (it has no {NAME})", "make one: slmops convert SRC --to gguf -o OUT"
        )
    value = parse(path)
    if (place := misfit(value, FORM)) is not None:
        fault = f"{path} is damaged or of an earlier version: {place[:100] or 'all of it'} is missing or of another kind"
        raise CorruptInput(fault, "convert the source again")
    held: dict[str, Any] = value
    return held


def parse(path: Path, most: int = MOST_BYTES) -> Any:
    """A JSON file of ours, within bounds. Raises CorruptInput."""
    if path.stat().st_size > most:
        raise CorruptInput(f"{path} is larger than {most} bytes", "make it again")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"{path} is not JSON: {error}", "make it again") from error


def misfit(value: Any, form: Any) -> str | None:
    """The first place where a value is not of its form (see FORM), or None."""
    place = _misfit(value, form)
    return None if place is None else place.lstrip(".")


def _misfit(value: Any, form: Any) -> str | None:
    # The place is put together on the way back: a receipt has thousands of values, and nearly always all of them fit.
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return ""
        for key, part in [(key, form[...]) for key in value] if ... in form else form.items():
            if (found := _misfit(value.get(key), part)) is not None:
                return f".{key}{found}"
    elif isinstance(form, list | tuple):
        if not isinstance(value, list) or (isinstance(form, tuple) and len(value) != len(form)):
            return ""
        if form == [int] and all(type(item) is int for item in value):
            return None
        for at, (item, part) in enumerate(zip(value, form if isinstance(form, tuple) else form * len(value), strict=True)):
            if (found := _misfit(item, part)) is not None:
                return f"[{at}]{found}"
    elif not isinstance(value, form):
        return ""
    return None


def save(folder: Path, receipt: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    store.write_whole(folder / NAME, json.dumps(receipt, indent=1, ensure_ascii=False) + "\n")


def machine() -> dict[str, Any]:
    """The facts of this machine that figures depend on."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
