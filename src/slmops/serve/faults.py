"""What is wrong with a request, for every wire format to say in its own form: status, words, and when to come again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slmops.core.errors import (
    Busy,
    CorruptInput,
    EngineCrashed,
    EngineFailed,
    EngineMissing,
    NoSpace,
    OutputExists,
    PolicyRefused,
    SlmopsError,
    SourceNotFound,
    UnknownFamily,
    Unreachable,
    Unsupported,
    UsageError,
)

STATUS: dict[type[SlmopsError], tuple[int, str]] = {
    SourceNotFound: (404, "model_not_found"),
    UsageError: (400, "invalid_value"),
    Unsupported: (400, "unsupported"),
    CorruptInput: (400, "invalid_value"),
    UnknownFamily: (400, "unsupported"),
    PolicyRefused: (403, "forbidden"),
    OutputExists: (409, "exists"),
    NoSpace: (507, "no_space"),
    Busy: (429, "rate_limit_exceeded"),
    EngineCrashed: (503, "engine_crashed"),
    Unreachable: (503, "unreachable"),
    EngineFailed: (500, "engine_failed"),
    EngineMissing: (500, "engine_missing"),
}
WITH_CURE = (400, 403, 404, 409, 429)
"""Statuses of which the cure is the client's to take."""


@dataclass(frozen=True)
class Problem:
    """What a client is told."""

    status: int
    said: str
    """What may be said to a stranger."""
    code: str
    """A word for it."""
    param: str | None = None
    """The field that is wrong."""
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(fault: SlmopsError) -> Problem:
    """What a fault is to a client."""
    status, code = next((found for kind, found in STATUS.items() if isinstance(fault, kind)), (500, "internal_error"))
    # What an engine says of itself in its last words is for the server's log, not for strangers.
    said = str(fault).splitlines()[0][:500] if status != 500 else "the engine failed"
    said = f"{said} ({fault.cure})" if fault.cure and status in WITH_CURE else said
    headers = {"x-should-retry": "false"}
    if isinstance(fault, Busy):
        headers = {"retry-after": str(max(1, round(fault.seconds)))}
    elif status == 503:
        headers = {"retry-after": "1"}
    return Problem(status, said, code, headers=headers)
