"""Write artifacts as an OCI image layout, with what is attached to them: as `slmops models export` does."""

from __future__ import annotations

from typing import Any

from slmops.core import units
from slmops.pipeline.desk import Desk
from slmops.pipeline.steps import STRING, Foreseen, Made, texts, told
from slmops.registry import archive, index

HELP = "write artifacts as an OCI image layout: a .tar, or a folder"
SCHEMA: dict[str, Any] = {
    "properties": {
        "artifacts": told(texts(), "those to write"),
        "out": told(STRING, "a file that ends in .tar, or a folder; an archive that is there is replaced"),
    },
    "required": ["artifacts", "out"],
}
INPUTS = {"artifacts": "artifact"}
CODE = "1"
REMEMBERED, JUDGES, ACTS = False, False, True


def outputs(keys: dict[str, Any]) -> dict[str, Any]:
    return {"path": "path", "bytes": "number"}


def plan(keys: dict[str, Any], desk: Desk) -> Foreseen:
    return Foreseen(f"to {desk.path(keys['out'])}")


def run(keys: dict[str, Any], desk: Desk) -> Made:
    digests = list(dict.fromkeys(desk.filed(one) for one in keys["artifacts"]))
    out = desk.path(keys["out"])
    # A folder that is no archive is somebody's: it is not replaced.
    ours = out.suffix == ".tar" or (out / index.LAYOUT).is_file()
    size = archive.send(desk.registry, digests, out, replace=ours)
    return Made({"path": str(out), "bytes": size}, f"{out}: {units.size(size)}")
