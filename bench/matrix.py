#!/usr/bin/env python3
"""Every reader, every scheme that it finds, every format: written as it was read and opened in the formats' engines.

    python bench/matrix.py [--only mlx gguf ...] [--json FILE]

What tests/test_pairwise.py does for eleven, for all of docs/matrix.md that can be made here (an hour on two cores). A cell
names the engines that computed the reference's logits; `-` where the format refuses while planning; anything else fails.
Rows that FILE has already are kept: a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fuzzseeds  # puts tests/ on the path

import matrix
from conftest import write_toy
from slmops import compile as compiler
from slmops import load
from slmops.core import receipt
from slmops.core.errors import SlmopsError, Unsupported

FORMATS = ("gguf", "mlx", "onnx", "openvino", "compressed_tensors", "huggingface")


def row(reader: str, scheme: str, scratch: Path) -> dict[str, str]:
    """Format -> what became of it."""

    def plain(family: str, **changes: Any) -> Path:
        return write_toy(family, scratch / f"toy-{family}", **changes)

    try:
        model = load(fuzzseeds.packed(reader, scheme, plain, scratch / "made"))
    except Unsupported as refusal:
        return {"made": str(refusal)}
    cells = {}
    for form in FORMATS:
        try:
            (made,) = compiler.convert(model, [form], compiler.KEEP, scratch / form)
        except Unsupported:
            cells[form] = "-"
            continue
        except SlmopsError as error:
            cells[form] = f"FAILED: {error}"
            continue
        if made.failure is not None:
            cells[form] = f"FAILED: {made.failure}"
            continue
        found = json.loads((made.folder / receipt.NAME).read_text())["verification"]
        cells[form] = ", ".join(sorted(found["engines"])) or "read back"
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=matrix.READERS, default=list(matrix.READERS))
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    found: list[dict[str, Any]] = json.loads(o.json.read_text()) if o.json and o.json.is_file() else []
    done = {(one["reader"], one["scheme"]) for one in found}
    for reader in o.only:
        for scheme in (name for name in matrix.READERS[reader] if (reader, name) not in done):
            began, folder = time.monotonic(), Path(tempfile.mkdtemp())
            cells = row("gguf" if reader == "slmops" else reader, scheme, folder)
            shutil.rmtree(folder)
            found.append({"reader": reader, "scheme": scheme, **cells})
            line = " | ".join(cells.get(form, "not made here") for form in FORMATS)
            print(f"| {reader} | {scheme} | {line} |  ({time.monotonic() - began:.0f} s)", flush=True)
            if o.json:
                o.json.write_text(json.dumps(found, indent=1) + "\n")
    bad = [one for one in found if any(str(value).startswith("FAILED") for value in one.values())]
    ran = sum(form in one and one[form] != "-" for one in found for form in FORMATS)
    refused = sum(one.get(form) == "-" for one in found for form in FORMATS)
    print(
        f"{len(found)} schemes: {ran} artifacts opened in their engines, {refused} refused while planning, {len(bad)} failed"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
