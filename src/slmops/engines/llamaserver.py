"""A native `llama-server` on PATH: built for this very processor, it is faster than the wheel, but gives no logits."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from slmops.core.errors import EngineMissing, UsageError
from slmops.engines import Footprint, Options, _gguf, _llamaserver
from slmops.engines._llamaserver_process import Start

FORMATS = ("gguf",)
MODULES = ()
PACKAGE = "llama.cpp"
EXTRA = "llamacpp"
INSTALL = "build or download llama.cpp and put llama-server on PATH"
CAN, SAMPLES, CONSTRAINTS = _llamaserver.CAN, _llamaserver.SAMPLES, _llamaserver.CONSTRAINTS
DEVICES = ("cpu", "gpu")
KV = _gguf.KV
FOOTPRINT = Footprint(base=60_000_000, reserved=True, chunk=512, rows=64, efficiency=1.0)
PREFERENCE = 1

PROGRAM = "llama-server"


@functools.cache
def installed() -> str | None:
    """The version of the llama-server on PATH, or None without one."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version:")]
    return lines[0].removeprefix("version:").strip() if lines else None


def open(folder: Path, options: Options) -> _llamaserver.Session:
    """Start a server with the folder's GGUF and wait until it answers."""
    if options.device not in ("auto", *DEVICES):
        raise UsageError(f"llama-server has no device {options.device!r}", f"one of: auto, {', '.join(DEVICES)}")
    if options.proof:
        raise UsageError("llama-server gives no logits, so there is nothing to prove with it", "use the engine llamacpp")
    version = f"llama.cpp {installed() or 'of unknown version'}"
    return _llamaserver.Session(_gguf.locate(folder), options, command, version)


def command(start: Start, port: int) -> list[str]:
    """Raises EngineMissing where there is no program."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise EngineMissing(f"there is no {PROGRAM} on PATH", INSTALL)
    words = [program, "--model", start.file, "--host", "127.0.0.1", "--port", str(port)]
    # The server divides its context among the requests in flight.
    words += ["--ctx-size", str(start.context * start.parallel), "--parallel", str(start.parallel)]
    words += ["--threads", str(start.threads), "--no-webui", "--jinja", "--no-slots"]
    words += ["--cache-ram", str(start.cache_mib)]
    if start.adapters:
        words += ["--lora-init-without-apply", *(word for file in start.adapters for word in ("--lora", file))]
    if start.kv:
        words += ["--cache-type-k", start.kv, "--cache-type-v", start.kv]
        # Values with scales are for flash attention alone.
        words += ["--flash-attn", "on"] if start.kv == "q8_0" else []
    # The server would take a leading bos out of what the template writes, trusting that the tokenizer adds it.
    words += ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]
    if start.device == "cpu":
        words += ["--device", "none"]
    if start.embeds:
        # A text is embedded in one piece.
        words += ["--embeddings", "--batch-size", str(start.context), "--ubatch-size", str(start.context)]
        words += ["--pooling", "mean"] if start.pools else []
    return words
