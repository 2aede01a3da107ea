"""The receipt: `slmops.json` in every artifact, what it was made from, how, and what was proven of it.

Keys: format, name, scheme, source, step, config, generation, tokenizer {bos, eos, pad, adds_bos, special}, chat_template,
licence, tensors {role: {stored, shape, crc}}, files {name: bytes}, probes, notes, machine, versions, verification.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, SourceNotFound

NAME = "slmops.json"
MOST_BYTES = 64 << 20


def load(folder: Path) -> dict[str, Any]:
    """The receipt of an artifact. Raises SourceNotFound without one, CorruptInput when it is not one."""
    path = folder / NAME
    if not path.is_file():
        raise SourceNotFound(
            f"{folder} is not an artifact of slmops (it has no {NAME})", "make one: slmops convert SRC --to gguf -o OUT"
        )
    if path.stat().st_size > MOST_BYTES:
        raise CorruptInput(f"{path} is larger than {MOST_BYTES} bytes", "convert the source again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"{path} is not JSON: {error}", "convert the source again") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), str) or not isinstance(value.get("tensors"), dict):
        raise CorruptInput(f"{path} does not name a format and tensors", "convert the source again")
    return value


def save(folder: Path, receipt: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    temporary = folder / (NAME + ".partial")
    with temporary.open("w", encoding="utf-8") as handle:
        json.dump(receipt, handle, indent=1, ensure_ascii=False)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(folder / NAME)


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
