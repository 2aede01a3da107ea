"""Distance from the unquantized model: KL divergence and perplexity on a text, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core.model import Model
from slmops.core.tensor import Floats
from slmops.engines._host import Worker
from slmops.ops.numpy import Reference


@dataclass(frozen=True)
class Quality:
    """Over all positions of the text's windows; divergences and losses in nats a token."""

    kl: float
    kl_error: float
    """Standard error of the mean, positions taken as independent."""
    kl_p999: float
    top1: float
    """Share of positions where the likeliest token is the reference's."""
    perplexity: float
    positions: int


def windows(ids: Sequence[int], length: int, most: int) -> list[list[int]]:
    """Consecutive windows of `length` tokens, at most `most` of them; a short rest is left out unless it is all there is."""
    cut = [list(ids[start : start + length]) for start in range(0, len(ids), length)][:most]
    return [window for window in cut if len(window) == length] or cut[:1]


def reference_logits(model: Model, sequences: Sequence[Sequence[int]], path: Path) -> None:
    """The unquantized model's logits of every window, stacked [positions, vocab], as a .npy file of f32."""
    reference = Reference(model)
    total = sum(len(ids) for ids in sequences)
    stacked: Floats = np.lib.format.open_memmap(path, "w+", np.float32, (total, model.spec.vocab))
    row = 0
    for ids in sequences:
        stacked[row : row + len(ids)] = reference.logits(ids)
        row += len(ids)
    stacked.flush()  # type: ignore[attr-defined]


def against_reference(worker: Worker, sequences: Sequence[Sequence[int]], reference: Path) -> Quality:
    """Run the windows through the engine and compare with the reference's logits, inside the worker."""
    found = worker.ask("quality", sequences=[list(ids) for ids in sequences], reference=str(reference))
    kl = np.array(found["kl"], np.float64)
    return Quality(
        kl=float(kl.mean()),
        kl_error=float(kl.std(ddof=1) / math.sqrt(len(kl))) if len(kl) > 1 else math.inf,
        kl_p999=float(np.quantile(kl, 0.999)),
        top1=float(found["agreed"]) / len(kl),
        perplexity=math.exp(float(np.mean(found["loss"]))),
        positions=len(kl),
    )
