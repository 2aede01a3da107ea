"""Where models are pulled from: one kind of remote a file. A file holds:

    PREFIXES                                    what its sources start with: "hf:", or "http://", "https://"
    OPTIONS                                     fields of Wanted that it heeds, beside name, replace, jobs and most_bytes
    origin(where)                               its normal form, for policy: hf:org/name, https://host/path, file:/abs
    pull(registry, where, wanted, watch)        -> archive.Taken
    restore(registry, document, lost, watch)    fetch lost blobs again, as the `origin` attached to an artifact tells

`where` is a source with its prefix. Blobs come in through registry/fetching.py: in parallel, resumed after a kill, proven
before they have a name. Remotes never import each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slmops.core import plugins
from slmops.core.errors import SourceNotFound, UsageError
from slmops.core.watch import Watch
from slmops.registry.blobs import Blob
from slmops.registry.references import Reference

if TYPE_CHECKING:
    from slmops.registry.archive import Taken
    from slmops.registry.registry import Registry

ROOM = "registry.remotes"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a remote beside its source. Options that a remote does not heed are refused, not ignored."""

    name: Reference | None = None
    """The name to give; None: the source's own, or the model's, tagged FORMAT-SCHEME."""
    revision: str | None = None
    """A branch, tag or commit."""
    patterns: tuple[str, ...] = ()
    """Only files that match one of these, as fnmatch has it."""
    variant: str | None = None
    """Of a repository that holds several quantizations: which."""
    unverified: bool = False
    """Take bytes that nobody has vouched for by a digest."""
    plain_http: bool = False
    replace: bool = False
    """Move a name that is another artifact's."""
    jobs: int = 4
    """Files at a time."""
    most_bytes: int | None = None
    """More is refused, before a byte of it is fetched: the policy's, which pull() sets."""


def parse(text: str) -> tuple[ModuleType, str]:
    """A source as it was typed -> (remote, the source with its prefix). A path that is there wins over a name of the Hub.

    Raises UsageError, or SourceNotFound for what is neither.
    """
    from slmops.formats import _hub

    remotes = {name: plugins.load(ROOM, name) for name in plugins.names(ROOM)}
    for remote in remotes.values():
        for prefix in remote.PREFIXES:
            if text.lower().startswith(prefix):
                return remote, prefix + text[len(prefix) :]
    with contextlib.suppress(OSError, RuntimeError):
        if (path := Path(text).expanduser()).exists():
            return remotes["local"], f"file:{path.absolute()}"
    if _hub.parse(text) is not None:
        return remotes["hub"], f"hf:{text}"
    prefixes = [prefix for remote in remotes.values() for prefix in remote.PREFIXES]
    if "://" in text:
        raise UsageError(f"{text[:200]!r} cannot be pulled from", f"sources start with {', '.join(prefixes)}")
    raise SourceNotFound(
        f"there is no file or folder {text[:200]!r}, and it is no Hub name (org/name) either",
        f"check the path, or name a source: org/name, or what starts with {', '.join(prefixes)}",
    )


def pull(registry: Registry, text: str, wanted: Wanted, watch: Watch | None = None) -> Taken:
    """Take in what a source holds.

    Raises PolicyRefused before anything is asked of a source that the policy does not let in; UsageError for an option that
    makes no sense there; what its remote raises.
    """
    remote, where = parse(text)
    defaults = Wanted()
    for field in ("revision", "patterns", "variant", "unverified", "plain_http"):
        if field not in remote.OPTIONS and getattr(wanted, field) != getattr(defaults, field):
            raise UsageError(f"{text[:200]} has no {field.replace('_', ' ')}", "leave the option out")
    registry.policy.admit(remote.origin(where))
    bounded = dataclasses.replace(wanted, most_bytes=registry.policy.most_bytes)
    taken: Taken = remote.pull(registry, where, bounded, watch or Watch())
    return taken


def restore(registry: Registry, document: Mapping[str, Any], lost: Sequence[Blob], watch: Watch | None = None) -> None:
    """Fetch lost blobs again from where an artifact came: `document` is its `origin` ({"source": ..., ...}).

    What comes is proven as when it was pulled. Raises what the remote raises for the first that it cannot bring.
    """
    remote, where = parse(str(document.get("source", "")))
    registry.policy.admit(remote.origin(where))
    remote.restore(registry, document, lost, watch or Watch())
