"""w8a8_static: w8a8's codes, and activations rounded by steps that a calibration text told (passes/activations.py), not by
each call's own numbers."""

from __future__ import annotations

from slmops.core.scheme import Scheme
from slmops.core.spec import Spec
from slmops.quantize import w8a8

TOLD = True
"""It takes a text, and a format that has STEPS."""


def CHOOSE(role: str, spec: Spec, shape: tuple[int, ...]) -> Scheme:  # noqa: N802 - a name that every mix has
    return w8a8.SCHEME
