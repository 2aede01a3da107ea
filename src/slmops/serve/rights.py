"""Who may use which route: the one table. A route that is not in it is for admins alone."""

from __future__ import annotations

import re
from typing import Literal

from slmops.serve.request import Role

Level = Literal["open", "user", "metrics", "operator", "admin"]
"""What a route asks of its caller."""

MAY: dict[Level, frozenset[Role]] = {
    "open": frozenset({"admin", "operator", "user", "metrics"}),
    "user": frozenset({"admin", "operator", "user"}),
    "metrics": frozenset({"admin", "operator", "metrics"}),
    "operator": frozenset({"admin", "operator"}),
    "admin": frozenset({"admin"}),
}
"""Roles that reach each level; an open route asks for no key at all."""

ROUTES: dict[Level, str] = {
    # That the server is there, and the page, which holds nothing until a key is typed into it.
    "open": """
        GET /health/live
        GET /health/ready
        GET /health/startup
        GET /
        GET /web/{}/{}
    """,
    # Answers, and the names of models, of which each caller is shown those that it may use.
    "user": """
        GET /slmops/session
        POST /slmops/session
        DELETE /slmops/session
        GET /openapi.json
        GET /v1/models
        GET /v1/models/{}
        POST /v1/chat/completions
        POST /v1/completions
        POST /v1/embeddings
        POST /v1/responses
        GET /v1/responses/{}
        DELETE /v1/responses/{}
        GET /v1/responses/{}/input_items
        POST /v1/messages
        POST /v1/messages/count_tokens
        POST /api/generate
        POST /api/chat
        POST /api/embed
        POST /api/embeddings
        POST /api/show
        GET /api/tags
        GET /api/version
    """,
    "metrics": """
        GET /metrics
    """,
    # What the server does, and changes to it that cost nobody what they have.
    "operator": """
        GET /slmops/models
        GET /slmops/registry
        GET /api/ps
        POST /api/pull
        POST /api/create
        POST /api/copy
        HEAD /api/blobs/{}
        POST /api/blobs/{}
        GET /status
        GET /models/loaded
        GET /models/load/{}
        POST /models/load/{}
        GET /models/unload/{}
        POST /models/unload/{}
        GET /openai/status
        GET /openai/models
        GET /openai/loadedmodels
        GET /openai/load/{}
        POST /openai/load/{}
        GET /openai/unload/{}
        POST /openai/unload/{}
    """,
    # The rest: what removes, what sends elsewhere, what ends the server, and every route that nobody thought of here.
}
_LEVELS: dict[str, Level] = {
    line.strip(): level for level, lines in ROUTES.items() for line in lines.split("\n") if line.strip()
}

STREAMED = frozenset({"/api/blobs/{}"})
"""Routes whose body may be of any size: they bound it themselves, and read it as it comes."""

CHANGING: frozenset[Level] = frozenset({"operator", "admin"})
"""Levels whose routes change something, unless they are only read."""
CHANGED_BY_GET = frozenset({"/models/load/{}", "/models/unload/{}", "/openai/load/{}", "/openai/unload/{}"})
"""Foundry Local's way."""
SIGNING = "/slmops/session"


def changes(method: str, own: str, level: Level | None) -> bool:
    """Whether the audit log is told of a request: by its method, its route's own path (`pattern`) and what that asks for."""
    read = method in ("GET", "HEAD") and own not in CHANGED_BY_GET
    return not read and (level in CHANGING or own == SIGNING)


def pattern(path: str) -> str:
    """A route's path without the names of its parameters: /v1/models/{name:path} is /v1/models/{}."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def least(method: str, path: str) -> Level:
    """What a route asks for, by its method and its own path (never by the path of a request)."""
    own = pattern(path)
    found = _LEVELS.get(f"{method} {own}")
    if found is None and method == "HEAD":
        found = _LEVELS.get(f"GET {own}")
    return found or "admin"
