"""The verbs of the library where they take a path: a name of the registry does as well, as on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slmops import prove, run
from slmops import source as sources
from slmops.core.model import Model
from slmops.engines import Options, Sampling
from slmops.registry import opened


def load(source: str | Path, revision: str | None = None) -> Model:
    """The model at a path, of a name of the registry, or of a Hub name (`org/name@revision`), which is downloaded first.

    No weight is read. Raises SourceNotFound, CorruptInput, UnknownFamily, Unsupported or PolicyRefused.
    """
    named = isinstance(source, str) and revision is None
    return sources.load(opened.source(str(source)) if named else source, revision)


def verify(artifact: str | Path, *, device: str = "auto", engines: Sequence[str] | None = None) -> dict[str, Any]:
    """Prove an artifact again, in these engines or in all that are installed; what was found.

    Raises VerificationFailed on the first thing that is not as it must be.
    """
    return prove.verify(opened.folder(str(artifact)), device=device, engines=engines)


def generate(
    artifact: str | Path,
    prompt: str,
    *,
    raw: bool = False,
    engine: str | None = None,
    device: str = "auto",
    kv: str = "auto",
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Pieces of text as they come. raw: the prompt is continued as it stands, without the chat template. sampling: None is
    greedy, with what the model's own parameters say.

    Raises UsageError for a prompt that leaves no room in the context.
    """
    found = run.Artifact.open(opened.folder(str(artifact)))
    text = prompt if raw else found.prompt([{"role": "user", "content": prompt}])
    return run.generate(found, text, Options(device=device, kv=kv), engine=engine, sampling=sampling)
