"""Adapters that stand beside a model that is served: from PEFT's folder to the file that its engine loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops import source
from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.passes.merge import beside
from slmops.run import Artifact


@dataclass(frozen=True)
class Written:
    """An adapter in the form of one engine."""

    file: Path
    digest: str
    """sha256:... of the file that its numbers came from."""


def write(base: Artifact, folders: Sequence[Path], out: Path) -> list[Written]:
    """The adapters in these folders of PEFT's, for this model; `out` is an empty folder.

    Raises Unsupported where the format has no form for one or the base's graph no place, and what reading raises.
    """
    writer = getattr(plugins.load("formats", base.format), "adapter", None)
    if writer is None:
        raise Unsupported(
            f"an adapter is not loaded beside {base.format}",
            "merge it: slmops convert MODEL --adapter FOLDER",
        )
    model, found = source.load(base.folder), []
    for number, folder in enumerate(folders):
        adapter, place = source.adapter(folder, model), out / str(number)
        place.mkdir()
        found.append(Written(writer(beside(model, adapter), base.folder, place), f"sha256:{adapter.digest}"))
    return found
