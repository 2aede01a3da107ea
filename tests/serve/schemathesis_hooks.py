"""For schemathesis (SCHEMATHESIS_HOOKS): what it makes up asks a model that there is, for a few tokens."""

from __future__ import annotations

from typing import Any

import schemathesis

MANAGED = ("/api/create", "/api/delete", "/api/pull", "/api/push")
"""What takes a model away, or makes one, is not told of the one that is asked."""
MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    path = context.operation.path
    for key in ("model", "source", "from"):
        if isinstance(name := body.get(key), str) and 0 < len(name) <= 300:  # what breaks the schema stays as it is
            body[key] = "made" if path in MANAGED and key == "model" else "home"
    if path in ("/api/chat", "/api/generate"):
        body["options"] = {"num_predict": 4} if body.get("options") is None else body["options"]
    for held in (body, body.get("options")):
        for key in MOST if isinstance(held, dict) else ():
            if type(held.get(key)) is int:
                held[key] = min(held[key], 4)
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    if isinstance(path_parameters, dict) and "name" in path_parameters and len(path_parameters["name"]) % 2:
        path_parameters["name"] = "home"
    return path_parameters
