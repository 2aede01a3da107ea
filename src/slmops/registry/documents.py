"""The documents that go with an artifact wherever it goes: its bill of materials and its model card, as attachments.

Verbs that file, measure, approve or send an artifact write them. They follow from manifest and attachments alone, and
replace those of before: a bill that lacks what was measured since is worse than none.
"""

from __future__ import annotations

from slmops.registry import bom, card, described
from slmops.registry.registry import Registry

KINDS = (bom.KIND, card.KIND)


def write(registry: Registry, digest: str) -> None:
    """Attach them as they are now; nothing is written where nothing changed. Raises SourceNotFound, CorruptInput."""
    one = described.describe(registry, digest)
    registry.attach(digest, bom.KIND, bom.bom(one), only=True)
    registry.attach(digest, card.KIND, card.card(one), only=True)
