"""What routes raise, answered in the form of the format that their path belongs to."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from slmops.core.errors import SlmopsError
from slmops.serve import wire
from slmops.serve.faults import Problem, problem


class ClientLeft(Exception):
    """The connection was closed while the answer was being computed."""


async def answered(http: HttpRequest, fault: Exception) -> Response:
    """A handler of Starlette's."""
    if isinstance(fault, ClientLeft):
        return Response(status_code=499)  # nobody reads it
    found = _problem(fault)
    return JSONResponse(wire.error(http.scope, found), found.status, found.headers)


HANDLERS = dict.fromkeys((SlmopsError, ValidationError, HTTPException, ClientLeft, Exception), answered)
"""For Starlette(exception_handlers=)."""


def _problem(fault: Exception) -> Problem:
    match fault:
        case SlmopsError():
            return problem(fault)
        case ValidationError():
            name, said = first_fault(fault)
            return Problem(400, said, "invalid_value", name or None)
        case HTTPException():  # no route, or not by this method
            return Problem(fault.status_code, fault.detail, "no_such_route", headers=fault.headers or {})
    return Problem(500, "the server failed", "internal_error")


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
