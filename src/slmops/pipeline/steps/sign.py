"""Sign an artifact's files with a key (OpenSSF model-signing), as slmops models sign does; SLMOPS_KEY_PASSWORD opens it."""

from __future__ import annotations

from typing import Any

from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, told
from slmops.registry import documents, signing

HELP = "sign an artifact's files: as slmops models sign"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifact": told(STRING, "${steps.NAME.artifact}, or a name of the registry"),
        "key": told(STRING, "private key on P-256, P-384 or P-521, in PEM"),
        "certificate": told(STRING, "the key's certificate, then those that lead to the authority, in PEM"),
    },
    "required": ["artifact", "key"],
}
INPUTS = {"artifact": "artifact", "key": "file", "certificate": "file"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, False, True


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"artifact": "artifact"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"with {keys['key']}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    digest = desk.filed(keys["artifact"])
    certificate = desk.file(keys["certificate"]) if "certificate" in keys else None
    signer = signing.Signer(desk.file(keys["key"]), certificate, signing.password())
    _, who = signing.sign(desk.registry, digest, signer)
    documents.write(desk.registry, digest)
    return Made({"artifact": digest}, f"signed by {who}")
