"""The OpenAPI document of the server, made of its route table and of the bodies that its routes read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from slmops import __version__
from slmops.serve.wire._http import Body

Endpoint = Callable[[HttpRequest], Awaitable[Response]]
_FACTS = "_slmops_facts"
_JSON = "application/json"
_ERROR = {"type": "object", "required": ["error"]}
_REFERENCE = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Facts:
    """What a route reads and gives."""

    body: type[Body] | None
    keys: tuple[str, ...]
    media: str | None
    empty: bool


def reads(
    body: type[Body] | None, *keys: str, media: str | None = None, empty: bool = False
) -> Callable[[Endpoint], Endpoint]:
    """Tells of an endpoint what it reads, keys of the object that it gives, and the media type that it may stream. empty: it
    gives nothing but its status."""

    def marked(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _FACTS, Facts(body, keys, media, empty))
        return endpoint

    return marked


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes; those that say nothing of themselves by their path and methods."""
    known = [one for one in routes if isinstance(one, Route)]
    bodies = {facts.body for one in known if (facts := _facts(one)) is not None and facts.body is not None}
    ordered = sorted(bodies, key=lambda one: (one.__module__, one.__name__))
    named, shared = models_json_schema([(one, "validation") for one in ordered], ref_template=_REFERENCE)
    found: dict[str, dict[str, Any]] = {}
    for route in known:
        facts = _facts(route)
        body = named[facts.body, "validation"] if facts is not None and facts.body is not None else None
        operation = _operation(route, facts, body)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            found.setdefault(route.path_format, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "slmops", "version": __version__},
        "paths": found,
        "components": {
            "schemas": shared.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _facts(route: Route) -> Facts | None:
    return getattr(route.endpoint, _FACTS, None)


def _operation(route: Route, facts: Facts | None, body: dict[str, Any] | None) -> dict[str, Any]:
    operation: dict[str, Any] = {"responses": {"default": {"description": "What this route gives."}}}
    if facts is not None:
        given = {"type": "object", "required": list(facts.keys)} if facts.keys else {}
        content: dict[str, Any] = {} if facts.empty else {_JSON: {"schema": given}}
        content |= {facts.media: {"schema": {}}} if facts.media else {}
        operation["responses"] = {
            "200": {"description": "What was asked for.", **({"content": content} if content else {})},
            "default": {"description": "What is wrong.", "content": {_JSON: {"schema": _ERROR}}},
        }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in route.param_convertors
    ]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return operation
