"""Low-rank adapters in PEFT's file, for engines whose matrices are modules that we can reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slmops.core.errors import CorruptInput, EngineFailed
from slmops.core.tensor import Floats

PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def pairs(file: Path) -> Iterator[tuple[str, Floats, Floats]]:
    """(module, A [rank, in], B [out, rank]) of each matrix; the scale is in B already (formats/_lora.py: peft)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
        for name, a in found.items():
            if name.endswith(A):
                yield name.removeprefix(PREFIX).removesuffix(A), a, found[name.removesuffix(A) + B]
    except (OSError, SafetensorError, KeyError) as error:
        raise CorruptInput(f"the adapter {file} cannot be read: {error}", "save it again") from None


def missing(engine: str, module: str, able: Sequence[str]) -> EngineFailed:
    where = ", ".join(sorted({one.rsplit(".", 1)[-1] for one in able}))
    cure = f"merge it: slmops convert MODEL --adapter FOLDER; adapters are taken on {where}"
    return EngineFailed(f"{engine} has no matrix {module} for an adapter", cure)
