"""Azure AI Foundry's catalogue, as Foundry Local asks for it: models that are compiled to ONNX, a variant a device.

The endpoint is public and undocumented. Request, paging and the shape of the answer are those of Foundry Local's own client
(github.com/microsoft/foundry-local, catalog/azure_catalog_client.cc and its tests). SLMOPS_FOUNDRY names another endpoint.
It gives no number of parameters: that is read from the name, where it stands there (qwen2.5-0.5b).
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from slmops.catalogues import SECONDS, Listed, Wanted, whole, word
from slmops.core import hosts
from slmops.core.errors import CorruptInput, SourceNotFound, Unreachable, UsageError

HELP = "Azure AI Foundry's catalogue of Foundry Local"
SORTS = ("name", "size")
ENDPOINT = "https://ai.azure.com/api/centralus/ux/v1.0"
AGENT = "AzureAiStudio"
"""The gateway answers 400 without this User-Agent, says Foundry Local's client."""
PAGE, PAGES = 50, 40
MOST_BYTES = 16 << 20
"""Of one page."""
TIMEOUT = 20.0
TASKS = {"text-generation": ("chat-completion", "text-generation")}
"""The Hub's name of a task -> Foundry's."""
PARAMETERS = re.compile(r"(?:^|[-_.])(\d{1,4}(?:\.\d{1,3})?)(m|b)(?=$|[-_.])", re.IGNORECASE | re.ASCII)
FILTERS = (
    ("type", ["models"]),
    ("kind", ["Versioned"]),
    ("labels", ["latest"]),
    ("annotations/tags/foundryLocal", [""]),
)


def search(wanted: Wanted) -> list[Listed]:
    """Raises Unreachable, SourceNotFound, CorruptInput."""
    found = [one for one in map(_listed, _entities()) if one is not None and _fits(one, wanted)]
    key = (lambda one: (one.bytes is None, one.bytes or 0, one.name)) if wanted.sort == "size" else (lambda one: one.name)
    return sorted(dict.fromkeys(found), key=key)[: wanted.limit]


def _fits(one: Listed, wanted: Wanted) -> bool:
    tasks = TASKS.get(wanted.task, (wanted.task,)) if wanted.task else None
    return (
        wanted.text.lower() in one.name.lower()
        and (tasks is None or one.task in tasks)
        and (not wanted.licence or (one.licence or "").lower() == wanted.licence.lower())
        and wanted.fits(one.parameters)
    )


def _listed(entity: Any) -> Listed | None:
    """One entry; None for what is none."""
    tags, data = _at(entity, "annotations", "tags"), _at(entity, "properties", "variantInfo", "variantMetadata")
    name = word(_at(entity, "properties").get("name"))
    if name is None or not isinstance(entity.get("assetId"), str):
        return None
    stated = PARAMETERS.search(name)
    parameters = round(float(stated[1]) * {"m": 10**6, "b": 10**9}[stated[2].lower()]) if stated else None
    return Listed(
        name=name,
        parameters=parameters,
        licence=word(tags.get("license")),
        task=word(tags.get("task")),
        bytes=whole(data.get("fileSizeBytes")),
        context=whole(tags.get("contextLength")),
        device=word(data.get("device")),
    )


def _at(value: Any, *path: str) -> Mapping[str, Any]:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _entities() -> Iterator[Any]:
    """Every entry, page by page."""
    end = time.monotonic() + SECONDS
    more: dict[str, Any] = {"skip": None, "continuationToken": None}
    for _ in range(PAGES):
        answer = _at(_ask(more, end), "indexEntitiesResponse")
        value = answer.get("value")
        if not isinstance(value, list):
            raise CorruptInput("the catalogue's answer is not one", "it may have changed: report it")
        yield from value
        following = {
            "skip": whole(answer.get("nextSkip")) or None,
            "continuationToken": word(answer.get("continuationToken")),
        }
        if not any(following.values()) or following == more or not value:
            return
        more = following


def _ask(more: Mapping[str, Any], end: float) -> Any:
    base = os.environ.get("SLMOPS_FOUNDRY", ENDPOINT).rstrip("/")
    if not hosts.encrypted(base):
        raise UsageError(f"{base[:100]} is no endpoint", "SLMOPS_FOUNDRY is a https:// URL")
    body = {
        "resourceIds": [{"resourceId": "azureml", "entityContainerType": "Registry"}],
        "indexEntitiesRequest": {
            "filters": [{"field": field, "operator": "eq", "values": values} for field, values in FILTERS],
            "pageSize": PAGE,
            **more,
        },
    }
    headers = {"Content-Type": "application/json", "User-Agent": AGENT}
    request = urllib.request.Request(f"{base}/entities/crossRegion", json.dumps(body).encode(), headers)
    try:
        with _opener().open(request, timeout=min(TIMEOUT, max(1.0, end - time.monotonic()))) as response:
            content = b""
            while chunk := response.read1(1 << 16):
                content += chunk
                if len(content) > MOST_BYTES or time.monotonic() > end:
                    raise CorruptInput("the catalogue's answer is too long, or takes too long", "try again later")
        return json.loads(content)
    except urllib.error.HTTPError as error:
        said = f"Azure AI Foundry answered {error.code}"
        if error.code == 429 or error.code >= 500:
            raise Unreachable(said, "try again later") from None
        raise SourceNotFound(said, "check SLMOPS_FOUNDRY, if it is set, and for a newer slmops") from None
    except OSError as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise Unreachable(f"Azure AI Foundry cannot be reached ({reason[:200]})", "connect and run again") from None
    except (ValueError, RecursionError) as error:
        raise CorruptInput(f"the catalogue's answer is no JSON ({error})"[:200], "try again later") from None


def _opener() -> urllib.request.OpenerDirector:
    class Stay(urllib.request.HTTPRedirectHandler):
        """No redirects: the endpoint has none, and one would lead elsewhere."""

        def redirect_request(self, *_: Any) -> None:
            return None

    return urllib.request.build_opener(Stay)
