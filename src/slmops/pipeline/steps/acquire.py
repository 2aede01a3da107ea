"""Fetch a model, once, and pin it: a Hub name becomes the commit that it stands for now; a path or a name of the registry is
taken as it is. Refuses licences that are not allowed before weights are fetched.

What another registry has is pulled first: `slmops models pull oci:...`, then its name.
"""

from __future__ import annotations

from typing import Any

from slmops import source as sources
from slmops.core import units
from slmops.core.errors import GateFailed
from slmops.core.model import Model
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, texts, told

HELP = "fetch a model and pin it: a Hub name, a folder or file, a name of the registry"
SCHEMA: dict[str, Any] = {
    "properties": {
        "model": told(STRING, "org/name[@revision] of the Hub, a path, or a name of the registry"),
        "licences": told(texts(), "those that are allowed, such as apache-2.0 and mit; default: any"),
    },
    "required": ["model"],
}
INPUTS = {"model": "model"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, True, False  # a branch of the Hub moves: it is asked each time; fetched is once


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"model": "model", "path": "path", "licence": "text", "parameters": "number"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    found = desk.outline(keys["model"])
    refuse(found, keys.get("licences"))
    return Foreseen(_said(found), _outputs(found, keys["model"], desk))


def run(keys: dict[str, Any], desk: Desk) -> Made:
    named = desk.source(keys["model"])
    if keys.get("licences") and sources.local(named) is None:
        refuse(desk.outline(keys["model"]), keys["licences"])
    desk.watch.say(f"fetching {keys['model']}")
    found = desk.model(keys["model"])
    refuse(found, keys.get("licences"))
    return Made(_outputs(found, keys["model"], desk), _said(found))


def refuse(found: Model, allowed: list[str] | None) -> None:
    """Raises GateFailed for a licence that is not among the allowed."""
    if allowed and (found.licence or "").lower() not in [one.lower() for one in allowed]:
        raise GateFailed(
            f"{found.name} has the licence {found.licence or 'that it does not state'}, {', '.join(allowed)} are allowed",
            "choose another model, or allow it under `licences`",
        )


def _outputs(found: Model, text: str, desk: Desk) -> dict[str, Any]:
    path, hub = str(found.source["path"]), str(found.source.get("hub", ""))
    digest = desk.digest(text) if desk.found(text) is None else None
    pinned = f"{hub.partition('@')[0]}@{found.source['revision']}" if hub and digest is None else path
    return {
        "model": digest or pinned,
        "path": path,
        "licence": found.licence or "",
        "parameters": found.parameters,
    }


def _said(found: Model) -> str:
    return f"{found.name}: {units.count(found.parameters)} parameters, licence {found.licence or 'not stated'}"
