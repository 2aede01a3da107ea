"""The Hugging Face Hub, asked through its own client (formats/_hub.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slmops.catalogues import Listed, Wanted, whole, word
from slmops.formats import _hub

HELP = "the Hugging Face Hub"
SORTS = ("downloads", "likes", "updated", "trending")
NAMES = {"updated": "last_modified", "trending": "trending_score"}
LOOKED = 10
"""Entries that are looked at for one that is asked for: the Hub's own filter of sizes is checked."""


def search(wanted: Wanted) -> list[Listed]:
    """Raises SourceNotFound, Unreachable."""
    sort = wanted.sort or SORTS[0]
    low, high = wanted.least, wanted.most
    found = _hub.listed(
        search=wanted.text or None,
        task=wanted.task or None,
        filters=[f"license:{wanted.licence}"] if wanted.licence else [],
        parameters=",".join([*([f"min:{low}"] if low else []), *([f"max:{high}"] if high is not None else [])]) or None,
        sort=NAMES.get(sort, sort),
        limit=wanted.limit * (LOOKED if wanted.sized else 1),
    )
    return [*_fitting(found, wanted)][: wanted.limit]


def _fitting(found: list[Any], wanted: Wanted) -> Iterator[Listed]:
    for info in found:
        name = _hub.parse(str(info.id))
        parameters = whole(info.safetensors.total) if info.safetensors else None
        if name is None or not wanted.fits(parameters):
            continue
        tags = [tag for tag in info.tags or () if isinstance(tag, str)]
        licence = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
        yield Listed(
            name=str(name),
            parameters=parameters,
            licence=word(licence),
            task=word(info.pipeline_tag),
            downloads=whole(info.downloads),
            likes=whole(info.likes),
            gated=bool(info.gated) if info.gated is not None else None,
        )
