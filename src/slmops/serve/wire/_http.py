"""What all wire formats have in common: bodies, who asks, the next event of an answer, and streams."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from slmops.core.errors import PolicyRefused
from slmops.serve import rights
from slmops.serve.access import CALLER, NOTED
from slmops.serve.logs import TRAIL
from slmops.serve.model import Answer
from slmops.serve.request import Caller, Event
from slmops.serve.wire._faults import ClientLeft

LOOK = 0.2
"""Seconds after which it is looked whether the client is still there."""
SSE = "text/event-stream"
QUIET = 15.0
"""Seconds without a token after which something keeps the connection alive that clients skip."""
Form = TypeVar("Form", bound=BaseModel)


class Body(BaseModel):
    """Every field has a bound; one that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


async def read(http: HttpRequest, form: type[Form]) -> Form:
    """The body of a request. Raises ValidationError."""
    return form.model_validate_json(await http.body())


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
