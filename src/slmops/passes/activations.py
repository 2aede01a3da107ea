"""Steps by which activations are rounded to 8 bits: one for each matrix's input, from what a text puts into it.

The step is the one of least squared error among shares of what would hold the greatest number: a few large numbers cut off
cost less than a coarse step for all.
"""

from __future__ import annotations

import numpy as np

from slmops.core import plugins
from slmops.core.errors import CorruptInput, Unsupported
from slmops.core.model import Model
from slmops.core.tensor import Array, Floats
from slmops.passes._windows import Inputs, through

CODE = "1"
"""Raised whenever the steps change."""
LEVELS = 128
"""Codes go from -LEVELS to LEVELS - 1."""
BINS = 2048
"""Of the histogram of magnitudes."""
SHARES = np.linspace(0.1, 1.0, 46)
"""Of the greatest magnitude, which the last code stands for."""


def told(scheme: str) -> bool:
    """Whether a scheme has activations rounded by steps that a text tells (TOLD in its file)."""
    return scheme in plugins.names("quantize") and hasattr(plugins.load("quantize", scheme), "TOLD")


def refuse_without_place(form: str) -> None:
    """Raises Unsupported for a format that has no place for steps (STEPS in its file)."""
    module = plugins.load("formats", form)
    if not hasattr(module, "STEPS"):
        raise Unsupported(
            f"{module.TITLE} has no place for the steps by which activations are rounded",
            "take openvino, or --quantize w8a8 of the checkpoint itself",
        )


def steps(model: Model, windows: Array) -> dict[str, float]:
    """Role -> step, of every matrix that is multiplied, by a pass of the reference interpreter.

    windows: ids [count, length]. Raises CorruptInput where a number on the way is none.
    """
    seen: dict[str, Magnitudes] = {}

    def see(x: Floats, role: str) -> None:
        if not np.isfinite(x).all():
            fault = f"on the calibration text the input of {role} is not finite"
            raise CorruptInput(fault, "the checkpoint is broken: fetch or train it again")
        seen.setdefault(role, Magnitudes()).add(x)

    watching = Inputs(model.tensors, see)
    through(watching, model, windows)
    told_of = {role: best(one) for role, one in seen.items() if one.top > 0}
    return {role: told_of[first] for role, first in watching.first.items() if first in told_of}


class Magnitudes:
    """How often each magnitude was seen, in bins up to the greatest; the range doubles when a greater one comes."""

    def __init__(self) -> None:
        self.top = 0.0
        self.range = 0.0
        self.counts = np.zeros(BINS, np.int64)

    def add(self, x: Floats) -> None:
        sizes = np.abs(x).reshape(-1)
        self.top = max(self.top, float(sizes.max(initial=0.0)))
        if not self.top:
            self.counts[0] += sizes.size
            return
        self.range = self.range or self.top
        while self.range < self.top:
            self.range *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
        self.counts += np.bincount(np.minimum(sizes * (BINS / self.range), BINS - 1).astype(np.int64), minlength=BINS)


def best(seen: Magnitudes) -> float:
    """The step of least squared error, as f32 holds it."""
    middles = (np.arange(BINS) + 0.5) * (seen.range / BINS)
    candidates = (seen.top * SHARES / (LEVELS - 1)).astype(np.float32)
    codes = np.minimum(np.rint(middles / candidates[:, None]), LEVELS - 1)
    errors = np.square(codes * candidates[:, None] - middles) @ seen.counts
    return float(candidates[int(np.argmin(errors))])
