"""Two catalogues in threads: the Hub's list of models, and Azure AI Foundry's, in the shapes that their clients show.

The Hub's: huggingface_hub's HfApi.list_models (query, expand, Link header). Foundry's: the request and the answers in
azure_catalog_client_test.cc of Foundry Local. Both keep what they were asked.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fakeserver


@dataclass
class Catalogue:
    """What the server has, how it misbehaves, and what it was asked."""

    entries: list[dict[str, Any]]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    """In place of an answer."""
    wait: float = 0.0
    page: int = 2
    """Entries of a page."""
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    catalogue: Catalogue
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """The Hub: /api/models."""
        if urlsplit(self.path).path != "/api/models":  # what else the client wonders about
            return self.send_error(404)
        query = dict(parse_qs(urlsplit(self.path).query))
        self.catalogue.asked.append(query)
        found = [one for one in self.catalogue.entries if query.get("search", [""])[0].lower() in one["id"].lower()]
        for wanted in query.get("filter", []):
            found = [one for one in found if wanted in one["tags"]]
        if task := query.get("pipeline_tag"):
            found = [one for one in found if one["pipeline_tag"] == task[0]]
        found.sort(key=lambda one: -one.get(query.get("sort", ["downloads"])[0], 0))
        start = int(query.get("cursor", ["0"])[0])
        shown = found[start : start + self.catalogue.page]
        headers = {}
        if start + self.catalogue.page < len(found):
            rest = self.path.partition("&cursor")[0]
            headers["Link"] = f'<{self.catalogue.url}{rest}&cursor={start + self.catalogue.page}>; rel="next"'
        self.answer(shown, headers)

    def do_POST(self) -> None:
        """Foundry: /entities/crossRegion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.catalogue.asked.append({"path": self.path, "agent": self.headers["User-Agent"], **body})
        start = body["indexEntitiesRequest"]["skip"] or 0
        after = start + self.catalogue.page
        more = after < len(self.catalogue.entries)
        self.answer({
            "indexEntitiesResponse": {
                "totalCount": len(self.catalogue.entries),
                "value": self.catalogue.entries[start:after],
                "nextSkip": after if more else 0,
                "continuationToken": f"token{after}" if more else "",
            }
        })  # fmt: skip

    def answer(self, value: Any, headers: dict[str, str] | None = None) -> None:
        time.sleep(self.catalogue.wait)
        if self.catalogue.status != 200:
            value = {"error": "no"}
        content = json.dumps(value).encode() if self.catalogue.body is None else self.catalogue.body
        with contextlib.suppress(OSError):  # who asked may have left
            self.send_response(self.catalogue.status)
            for name, text in {"Content-Type": "application/json", **(headers or {}), **self.catalogue.headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@contextlib.contextmanager
def serve(entries: list[dict[str, Any]]) -> Iterator[Catalogue]:
    catalogue = Catalogue(entries)
    with fakeserver.running(Handler, catalogue=catalogue) as catalogue.url:
        yield catalogue


def on_hub(name: str, parameters: int | None, licence: str, downloads: int, task: str = "text-generation") -> dict[str, Any]:
    """An entry as the Hub expands it."""
    tags = ["transformers", f"license:{licence}", task]
    sized = {"safetensors": {"parameters": {"BF16": parameters}, "total": parameters}} if parameters is not None else {}
    return {"_id": "x", "id": name, "downloads": downloads, "likes": downloads // 10, "gated": False, "tags": tags,
            "pipeline_tag": task, **sized}  # fmt: skip


def on_foundry(name: str, size: int, licence: str = "MIT", device: str = "cpu", **tags: str) -> dict[str, Any]:
    """An entry as Foundry Local's test has it."""
    return {
        "assetId": f"azureml://registries/azureml/models/{name}/versions/2",
        "entityId": f"{name}:2",
        "annotations": {
            "tags": {"alias": name, "foundryLocal": "", "task": "chat-completion", "license": licence, **tags},
            "systemCatalogData": {"publisher": "Microsoft", "displayName": name, "maxOutputTokens": 4096},
        },
        "properties": {
            "name": name,
            "version": 2,
            "variantInfo": {
                "parents": [{"assetId": "azureml://registries/azureml/models/x/versions/3"}],
                "variantMetadata": {
                    "modelType": "ONNX", "device": device, "executionProvider": "CPUExecutionProvider", "fileSizeBytes": size
                },
            },
        },
    }  # fmt: skip
