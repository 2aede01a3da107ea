"""Distance from the unquantized model on a text: KL divergence, perplexity, bits per byte, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.core.model import Model
from slmops.engines._host import Worker
from slmops.measure import statistics
from slmops.measure.statistics import Estimate
from slmops.ops.numpy import Reference


@dataclass(frozen=True)
class Quality:
    """Over all positions of the text's windows, each with its interval; a window is a cluster. Divergences are in nats."""

    kl: Estimate
    """Mean KL divergence of the artifact from the reference, over positions."""
    kl_median: float
    kl_p999: Estimate
    top1: Estimate
    """Share of positions where the likeliest token is the reference's."""
    perplexity: Estimate
    reference_perplexity: float
    retained: Estimate
    """The reference's perplexity over the artifact's on the same tokens: 1 is all of its quality, above 1 is luck."""
    bits_per_byte: Estimate | None
    """Bits that the artifact needs for a byte of the text; None where the text of the tokens is not known."""
    positions: int
    windows: int
    losses: tuple[float, ...] = ()
    """Of every predicted token, for tests against another artifact on the same windows."""


def windows(ids: Sequence[int], length: int, most: int) -> list[list[int]]:
    """Consecutive windows of `length` tokens, at most `most` of them; a short rest is left out unless it is all there is."""
    cut = [list(ids[start : start + length]) for start in range(0, len(ids), length)][:most]
    return [window for window in cut if len(window) == length] or cut[:1]


def reference_logits(model: Model, sequences: Sequence[Sequence[int]], path: Path) -> None:
    """The unquantized model's logits of every window, stacked [positions, vocab], as a .npy file of f32."""
    reference = Reference(model)
    shape = (sum(len(ids) for ids in sequences), model.spec.vocab)
    # Written, not mapped: a full disk under a mapped file kills the process.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for ids in sequences:
            file.write(np.ascontiguousarray(reference.logits(ids), np.dtype("<f4")).data)


def against_reference(
    worker: Worker, sequences: Sequence[Sequence[int]], reference: Path, sizes: Sequence[int] | None = None
) -> Quality:
    """Run the windows through the engine and compare with the reference's logits, inside the worker.

    sizes: bytes of text that each window's predicted tokens (all but its first) stand for.
    """
    found = worker.ask("quality", sequences=[list(ids) for ids in sequences], reference=str(reference))
    lengths = [len(ids) for ids in sequences]
    predicted = [length - 1 for length in lengths]
    kl, loss, known = found["kl"], found["loss"], found["reference_loss"]
    retained = statistics.paired(known, loss, predicted).through(math.exp)
    rate = None
    if sizes is not None:
        starts = np.concatenate([[0], np.cumsum(predicted)[:-1]])
        bits = np.add.reduceat(np.asarray(loss, np.float64), starts) / math.log(2)
        rate = statistics.ratio(bits, np.asarray(sizes, np.float64))
    return Quality(
        kl=statistics.mean(kl, lengths),
        kl_median=float(np.median(kl)),
        kl_p999=statistics.quantile(kl, 0.999, lengths),
        top1=statistics.mean(np.asarray(found["agreed"], np.float64), lengths),
        perplexity=statistics.mean(loss, predicted).through(math.exp),
        reference_perplexity=math.exp(float(np.mean(known))),
        retained=retained,
        bits_per_byte=rate,
        positions=len(kl),
        windows=len(lengths),
        losses=tuple(loss),
    )
