"""What verbs ask a running server: answers by OpenAI's API, and what it says of itself."""

from __future__ import annotations

import contextlib
import http.client
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
        with asked(f"{root}/v1/models") as listed, understood():
            name = str(json.loads(listed.read(MOST_LINE))["data"][0]["id"])
    body = {"model": name, "stream": True, **said}

    def answer(messages: Sequence[dict[str, str]]) -> Generator[str, None, None]:
        with asked(f"{root}/v1/chat/completions", {**body, "messages": messages}) as lines, understood():
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
def understood() -> Iterator[None]:
    """While an answer is read: raises Unreachable where it breaks off, CorruptInput for what is none."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the answer broke off: {error}", "try again") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CorruptInput(f"the server does not answer as it should: {error}", "check the address") from None


class _Straight(urllib.request.HTTPRedirectHandler):
    """A key is for the server that was named: urllib would send it along to wherever that one points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def asked(url: str, body: object = None, *, key: str | None = None, seconds: float = SECONDS) -> Any:
    """The answer, to be closed. key: in place of the environment's. Raises what its status stands for, Unreachable."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url[:200]} is no address of a server", "as http://127.0.0.1:8080")
    headers = {"content-type": "application/json"}
    if key := key or os.environ.get(KEY):
        headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    try:
        opener = urllib.request.build_opener(_Straight)
        return opener.open(urllib.request.Request(url, data, headers), timeout=seconds)
    except urllib.error.HTTPError as error:
        said = error.read(MOST_LINE).decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = str(json.loads(said)["error"]["message"])
        cure = f"its key goes into ${KEY}" if error.code in (401, 403) else ""
        raise ERRORS.get(error.code, UsageError if error.code < 500 else EngineFailed)(
            said[:500] or f"{url} answers {error.code}", cure
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"{url} does not answer: {error}", "is the server there? slmops serve starts one") from None
