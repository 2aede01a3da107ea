"""What this registry remembers of others, in remotes.json beside index.json; it outlives the catalog.

agreed        remote (HOST/PREFIX) -> name:tag -> digest: what both sides had after their last sync
repositories  HOST/REPOSITORY -> digests of artifacts that are there: from where blobs can be mounted
plain         hosts that the user allowed to be spoken to without encryption
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slmops.core.errors import CorruptInput
from slmops.core.store import write_whole
from slmops.registry import _lock, references

if TYPE_CHECKING:
    from slmops.registry._distribution import Repository

NAME = "remotes.json"
VERSION = 1
MOST_BYTES = 64 << 20
MOST_HINTS = 100
"""Digests that are remembered of one repository."""


@dataclass
class Remembered:
    """Mutable: edited by `change`."""

    agreed: dict[str, dict[str, str]] = field(default_factory=dict)
    repositories: dict[str, list[str]] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)

    def saw(self, there: Repository, digest: str) -> None:
        """An artifact is in a repository."""
        held = self.repositories.setdefault(f"{there.place.host}/{there.place.repository}", [])
        held[:] = [*(one for one in held if one != digest), digest][-MOST_HINTS:]
        if there.plain_http and there.place.host not in self.plain:
            self.plain.append(there.place.host)

    def beside(self, there: Repository) -> dict[str, list[str]]:
        """The other repositories of a host, and artifacts that they have."""
        start, own = f"{there.place.host}/", f"{there.place.host}/{there.place.repository}"
        found = {name: digests for name, digests in self.repositories.items() if name.startswith(start) and name != own}
        return {name.removeprefix(start): digests for name, digests in found.items()}


def read(root: Path) -> Remembered:
    """Raises CorruptInput."""
    path = root / NAME
    try:
        with path.open("rb") as handle:
            value = json.loads(handle.read(MOST_BYTES))
        if value["version"] != VERSION:
            raise ValueError(f"version {value['version']!r}")
        found = Remembered(value["agreed"], value["repositories"], value["plain"])
        listed = [*(tags.values() for tags in found.agreed.values()), *found.repositories.values()]
        if not all(references.DIGEST.fullmatch(one) for digests in listed for one in digests):
            raise ValueError("what is no digest")
        return found
    except FileNotFoundError:
        return Remembered()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cure = "remove it: the next sync then takes what differs for new, and removes nothing"
        raise CorruptInput(f"{path} cannot be read: {error}", cure) from None


def change(root: Path, edit: Callable[[Remembered], object]) -> None:
    """Edit it: read, edited, replaced whole, under a lock. Raises CorruptInput, NoSpace."""
    with _lock.held(root / "remotes.lock"):
        held = read(root)
        before = json.dumps(vars(held), sort_keys=True)
        edit(held)
        if json.dumps(vars(held), sort_keys=True) != before:
            write_whole(root / NAME, json.dumps({"version": VERSION, **vars(held)}, indent=1, sort_keys=True) + "\n")
