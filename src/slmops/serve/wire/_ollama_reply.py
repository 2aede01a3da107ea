"""How requests of Ollama's API are read, and its errors written: {"error": "text"}."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from slmops.core.errors import SlmopsError
from slmops.serve.wire._http import first_fault, headers, status

NDJSON = "application/x-ndjson"
BAD = (ValidationError, SlmopsError)
"""What `failure` makes an answer of."""
Form = TypeVar("Form", bound=BaseModel)


async def read(http: HttpRequest, form: type[Form]) -> Form:
    """The body of a request. Raises ValidationError."""
    return form.model_validate_json(await http.body())


def failure(fault: ValidationError | SlmopsError) -> Response:
    """An error in this format."""
    if isinstance(fault, ValidationError):
        return JSONResponse({"error": first_fault(fault)[1]}, 400)
    code, _, said = status(fault)
    return JSONResponse({"error": said}, code, headers(fault))
