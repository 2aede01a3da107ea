"""What verbs ask of a running server: answers over OpenAI's API, and what it has loaded."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core.errors import Busy, CorruptInput, EngineFailed, PolicyRefused, SourceNotFound, Unreachable, UsageError

if TYPE_CHECKING:
    from slmops.cli.chat import Answer

KEY = "SLMOPS_API_KEY"
"""The variable of the key that servers are asked with."""
SECONDS = 600.0
"""That a server may be silent."""
MOST_LINE = 1 << 20
ERRORS = {401: PolicyRefused, 403: PolicyRefused, 404: SourceNotFound, 429: Busy, 503: Unreachable}


def answers(url: str, name: str | None, said: Mapping[str, Any]) -> Answer:
    """url: with or without /v1. name: of its models; None: its first. said: of sampling, by OpenAI's names.

    Raises what asking for its models raises.
    """
    root, own = url.rstrip("/").removesuffix("/v1"), key()
    if name is None:
        with asked(f"{root}/v1/models", own) as listed, understood():
            name = str(json.loads(listed.read(MOST_LINE))["data"][0]["id"])
    body = {"model": name, "stream": True, **said}

    def answer(messages: Sequence[dict[str, str]]) -> Generator[str, None, None]:
        with asked(f"{root}/v1/chat/completions", own, {**body, "messages": messages}) as lines, understood():
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


def key(path: str | None = None) -> str | None:
    """The key to send: the first word of a file, else the environment's. Raises SourceNotFound."""
    if path is None:
        return os.environ.get(KEY)
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceNotFound(f"the key cannot be read: {path}: {error}", "a text file, the key on its first line") from None
    return words[0] if words else None


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Raises CorruptInput for what reading an answer trips over, Unreachable where the connection breaks."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CorruptInput(f"the server does not answer as it should: {error!r}", "check the address") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the connection broke: {error!r}", "is the server well? try again") from None


class _Straight(urllib.request.HTTPRedirectHandler):
    """A key is for the server that was named: urllib would send it along to wherever that one points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def asked(url: str, own: str | None, body: object = None, seconds: float = SECONDS) -> Any:
    """The answer, to be closed. own: the key. Raises what its status stands for, Unreachable, UsageError."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url[:200]} is no address of a server", "as http://127.0.0.1:8080")
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {own}"} if own else {})
    data = json.dumps(body).encode() if body is not None else None
    try:
        opener = urllib.request.build_opener(_Straight)
        return opener.open(urllib.request.Request(url, data, headers), timeout=seconds)
    except urllib.error.HTTPError as error:
        said = error.read(MOST_LINE).decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = str(json.loads(said)["error"]["message"])
        cure = f"its key goes into ${KEY}" if error.code == 401 else ""
        kind = ERRORS.get(error.code, UsageError if error.code < 500 else EngineFailed)
        raise kind(f"{url} answers {error.code}: {said[:500]}", cure) from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} does not answer: {error}", "is the server there? slmops serve starts one") from None
