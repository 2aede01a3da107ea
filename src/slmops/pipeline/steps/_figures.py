"""Measurements as they pass from step to step, and what gates say of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slmops.core import units
from slmops.core.errors import CorruptInput
from slmops.measure import gates, ledger
from slmops.measure.artifact import Measured
from slmops.measure.gates import Verdict
from slmops.pipeline.steps import FLAG, SHARE, STRING, texts, told
from slmops.plan import hardware

SEVERAL: dict[str, Any] = {"oneOf": [STRING, texts()]}
"""One reference, or a list."""
ASKED: dict[str, Any] = {
    "gates": told(texts(), "bounds of figures: quality.kl<=0.02, peak<=800MB"),
    "min_quality": told(SHARE, "of the source's quality to keep"),
    "steady": told(FLAG, "repeated runs of the speed must agree (false)"),
    "endured": told(FLAG, "the stress and stability runs must have passed (false)"),
}
"""Keys that ask something of a measurement by itself."""


def asks(keys: dict[str, Any]) -> bool:
    """Whether they ask for anything. Raises UsageError for gates that are none."""
    tuple(map(gates.parse, keys.get("gates", ())))
    return any(keys.get(name) not in (None, False) for name in ASKED)


def judge(one: Measured, keys: dict[str, Any]) -> Iterator[Verdict]:
    """What the gates of these keys say of a measurement."""
    baseline = opened(keys["baseline"]) if "baseline" in keys else None
    if one.altered:
        yield Verdict("as proven", False, True, one.altered)
    if "min_quality" in keys:
        yield from gates.quality(one, keys["min_quality"], baseline)
    if keys.get("steady"):
        yield gates.steady(one)
    if keys.get("endured"):
        yield from gates.endured(one)
    if baseline is not None or keys.get("require"):
        yield from gates.against(one, baseline, keys.get("require", ()), hardware.last_level_cache())
    yield from gates.added(one, [gates.parse(text) for text in keys.get("gates", ())])


def listed(value: Any) -> list[Any]:
    """One or several."""
    return value if isinstance(value, list) else [value]


def opened(value: Any) -> Measured:
    """The measurement that a reference led to. Raises CorruptInput."""
    if not isinstance(value, dict):
        raise CorruptInput(f"{str(value)[:100]!r} is no measurement", "refer to one: ${steps.NAME.measured}")
    return ledger.restored({key: one for key, one in value.items() if key != "artifact"})


def wrapped(one: Measured, digest: str) -> dict[str, Any]:
    """A measurement as an output: `opened` reads it."""
    return {"artifact": digest, **ledger.data(one)}


def said(found: Measured) -> str:
    """A line of the figures."""
    parts = [f"{found.format.replace('_', '-')} {found.scheme} in {found.engine}: {units.size(found.bytes)}"]
    if found.quality:
        parts.append(f"KL {found.quality.kl.value:.4f}, keeps {found.quality.retained.value:.3f}")
    if found.answers:
        score = found.answers.score()
        parts.append(f"{score.right}/{score.cases} right")
    if found.speed:
        parts.append(f"{found.speed.decode:,.0f} tok/s, {found.speed.first_token * 1000:.1f} ms to the first")
    return ", ".join([*parts, f"{units.size(found.peak)} at the peak"])
