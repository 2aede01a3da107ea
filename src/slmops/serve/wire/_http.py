"""What all wire formats have in common: who asks, the next event of an answer, streams, and the status of a fault."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

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
from slmops.serve import rights
from slmops.serve.access import CALLER, NOTED
from slmops.serve.logs import TRAIL
from slmops.serve.model import Answer
from slmops.serve.request import Caller, Event

LOOK = 0.2
"""Seconds after which it is looked whether the client is still there."""
SSE = "text/event-stream"
QUIET = 15.0
"""Seconds without a token after which something keeps the connection alive that clients skip."""
"""Roles that may change which models are loaded."""
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


class Body(BaseModel):
    """Every field has a bound; one that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class ClientLeft(Exception):
    """The connection was closed while the answer was being computed."""


def caller(http: HttpRequest) -> Caller:
    """Who asks."""
    found: Caller = http.scope[CALLER]
    return dataclasses.replace(found, trail=http.scope[TRAIL])


def operator(http: HttpRequest) -> Caller:
    """Who asks, where a part of what a route takes is an operator's; whole routes are in rights.py. Raises PolicyRefused."""
    found = caller(http)
    if found.role not in rights.MAY["operator"]:
        raise PolicyRefused(f"the role {found.role} may not do this", "ask with a key of an operator")
    return found


def noted(http: HttpRequest, model: str, to: str = "") -> dict[str, str]:
    """What the audit log is told of a request that changes something: which model, and what it became.

    Until the answer is whole a route may put in more: the `digest` that the name stands for now, and the `outcome` where a
    status does not say it."""
    facts: dict[str, str] = http.scope.setdefault(NOTED, {})
    facts |= {name: text for name, text in (("model", model), ("to", to)) if text}
    return facts


async def following(http: HttpRequest, answer: Answer) -> Event:
    """The next event. Raises ClientLeft, and what the engine raised."""
    while (event := await answer.next(LOOK)) is None:
        if await http.is_disconnected():
            raise ClientLeft
    return event


class Stream(StreamingResponse):
    """A streamed answer; however it ends, begun or not, nobody waits for it any more."""

    def __init__(self, answers: Answer | list[Answer], events: AsyncGenerator[str, None], media_type: str) -> None:
        super().__init__(events, media_type=media_type, headers={"cache-control": "no-store"})
        self._answers = answers if isinstance(answers, list) else [answers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for answer in self._answers:
                answer.cancel()


def status(fault: SlmopsError) -> tuple[int, str, str]:
    """The HTTP status of a fault, a word for it, and what may be said of it to a stranger."""
    code, word = next((found for kind, found in STATUS.items() if isinstance(fault, kind)), (500, "internal_error"))
    # What an engine says of itself in its last words is for the server's log, not for strangers.
    said = str(fault).splitlines()[0][:500] if code != 500 else "the engine failed"
    return code, word, f"{said} ({fault.cure})" if fault.cure and code in (400, 403, 404, 409, 429) else said


def headers(fault: SlmopsError) -> dict[str, str]:
    """When to come again, where that helps; else that it does not."""
    if isinstance(fault, Busy):
        return {"retry-after": str(max(1, round(fault.seconds)))}
    return {"retry-after": "1"} if status(fault)[0] == 503 else {"x-should-retry": "false"}


def first_fault(fault: ValidationError) -> tuple[str, str]:
    """The first field that is wrong, by its name, and what is wrong with it."""
    faults = fault.errors(include_url=False, include_input=False, include_context=False)
    # Of a field that may be one thing or another, what is nearest to one of them went wrong deepest.
    first = max((one for one in faults if one["loc"][:1] == faults[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str"))[
        :100
    ]
    if first["type"] == "extra_forbidden":
        return name, f"{name} is not known, or cannot be done here"
    return name, (f"{name}: {first['msg']}" if name else str(first["msg"]))[:500]
