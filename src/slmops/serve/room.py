"""How much memory a model will take, before it is loaded, and takes, once it is: what eviction goes by."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from slmops import run
from slmops.core import plugins, receipt, units
from slmops.core.errors import SlmopsError
from slmops.engines import Options

SHARE = 0.8
"""Of the memory that is free when the server starts, what models may take together unless it is told."""


@dataclass(frozen=True)
class Need:
    """Bytes that a model is expected to take with its whole context in use."""

    scheme: str
    """Of its weights, where it says."""
    weights: int
    cache: int
    """Of all requests in flight."""
    process: int
    """Without a model, activations, logits, tokenizer, what repacking adds, adapters."""
    grows: int
    """Of the cache, what is taken as contexts fill, and not at once."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.process

    def __str__(self) -> str:
        parts = f"weights {units.size(self.weights)}, KV cache {units.size(self.cache)}, engine {units.size(self.process)}"
        return f"{units.size(self.total)} ({parts})"


def budget() -> int:
    """What models may take together on this machine, as it is now."""
    from slmops.plan import hardware

    return int(SHARE * hardware.usable())


def need(artifact: run.Artifact, engine: str, options: Options) -> Need:
    """The planner's figure for an artifact as it will be opened. Reads headers, no weights."""
    from slmops.plan import memory  # and all the passes: a server answers sooner than this is read

    module = plugins.load("engines", engine)
    context = min(options.context, artifact.context)
    size = _bytes(artifact.folder)
    changed = sum(Path(file).stat().st_size for file in options.adapters)
    try:
        if (artifact.folder / receipt.NAME).is_file():
            facts = receipt.load(artifact.folder)
            spec = plugins.load("architectures", facts["config"]["model_type"]).spec(facts["config"])
            scheme, parameters = str(facts.get("scheme") or ""), _parameters(facts)
        else:
            from slmops import source

            model = source.load(str(artifact.folder))
            spec, scheme, parameters = model.spec, "", model.parameters
    except SlmopsError:  # a graph that nothing can be read from but its bytes: what is opened is known to be more
        takes = module.FOOTPRINT
        return Need("", size, 0, takes.base + round((takes.copies - 1) * size) + changed, 0)
    found = memory.of(spec, artifact.format, scheme, context, size, parameters, (engine, module.FOOTPRINT), options.kv)
    cache = found.kv_cache * max(1, options.parallel)
    return Need(scheme, size, cache, found.overhead + changed, 0 if module.FOOTPRINT.reserved else cache)


def _bytes(folder: Path) -> int:
    """Of the files that hold weights: all but the small ones that say what they are."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(
        one.stat().st_size for one in folder.rglob("*") if one.is_file() and one.suffix not in (".json", ".md", ".txt")
    )


def _parameters(facts: Mapping[str, Any]) -> int:
    return sum(math.prod(tensor["shape"]) for tensor in facts["tensors"].values())


def taken(pid: int) -> int:
    """Bytes resident now of a worker and of the servers that it started; 0 where it has ended."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
    return int(total)
