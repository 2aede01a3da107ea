"""What is wrong, as OpenAI's API says it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from slmops.core.errors import SlmopsError
from slmops.serve.wire._http import ClientLeft, first_fault, headers, status


async def faultless(answer: Awaitable[Response]) -> Response:
    """The answer, or what is wrong in this format."""
    try:
        return await answer
    except ValidationError as fault:
        return invalid(fault)
    except SlmopsError as fault:
        return failure(fault)
    except ClientLeft:
        return Response(status_code=499)  # nobody reads it


def said(fault: SlmopsError) -> tuple[int, dict[str, Any]]:
    """The status and the body of an error."""
    code, word, text = status(fault)
    kind = "invalid_request_error" if code < 500 else "server_error"
    return code, {"error": {"message": text, "type": kind, "param": None, "code": word}}


def failure(fault: SlmopsError) -> Response:
    """An error in this format."""
    code, body = said(fault)
    return JSONResponse(body, code, headers(fault))


def error(status: int, said: str, code: str, param: str | None = None) -> Response:
    body = {"error": {"message": said, "type": "invalid_request_error", "param": param, "code": code}}
    return JSONResponse(body, status)


def invalid(fault: ValidationError) -> Response:
    """The first field that is wrong, by name."""
    name, text = first_fault(fault)
    return error(400, text, "invalid_value", name or None)
