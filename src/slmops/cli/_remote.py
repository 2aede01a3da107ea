"""Answers of a server that speaks OpenAI's API, for the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slmops.core.errors import Busy, CorruptInput, EngineFailed, PolicyRefused, SourceNotFound, Unreachable, UsageError

if TYPE_CHECKING:
    from slmops.cli.chat import Answer

KEY = "SLMOPS_API_KEY"
"""The variable of the key that servers are asked with."""
SECONDS = 600.0
MOST_LINE = 1 << 20
ERRORS = {401: PolicyRefused, 403: PolicyRefused, 404: SourceNotFound, 429: Busy, 503: Unreachable}


def answers(url: str, name: str | None, said: Mapping[str, Any]) -> Answer:
    """url: with or without /v1. name: of its models; None: its first. said: of sampling, by OpenAI's names.

    Raises what asking for its models raises.
    """
    root = url.rstrip("/").removesuffix("/v1")
    if name is None:
        with _asked(f"{root}/v1/models") as listed, _understood():
            name = str(json.loads(listed.read(MOST_LINE))["data"][0]["id"])
    body = {"model": name, "stream": True, **said}

    def answer(messages: Sequence[dict[str, str]]) -> Generator[str, None, None]:
        with _asked(f"{root}/v1/chat/completions", {**body, "messages": messages}) as lines, _understood():
            while line := lines.readline(MOST_LINE):
                data = line.decode().removeprefix("data:").strip()
                if not line.startswith(b"data:") or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise EngineFailed(str(event["error"]["message"])[:500], "try again")
                for choice in event["choices"]:
                    yield str(choice["delta"].get("content") or "")

    return answer


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptInput(f"the server does not answer in OpenAI's form: {error}", "check the address") from None


def _asked(url: str, body: object = None) -> Any:
    """The answer, to be closed. Raises what its status stands for, Unreachable."""
    headers = {"content-type": "application/json"}
    if key := os.environ.get(KEY):
        headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        said = error.read(MOST_LINE).decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = str(json.loads(said)["error"]["message"])
        cure = f"its key goes into ${KEY}" if error.code == 401 else ""
        raise ERRORS.get(error.code, UsageError if error.code < 500 else EngineFailed)(said[:500], cure) from None
    except (urllib.error.URLError, OSError) as error:
        raise Unreachable(f"{url} does not answer: {error}", "is the server there? slmops serve starts one") from None
