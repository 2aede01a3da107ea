"""The web page at `/`, and what only it asks for: files from a fixed table, listed once. No path is made from a name.

The page holds nothing that is anyone's, so it needs no key; what it shows comes from routes that do. Its files lie under an
address that has their digest in it, so that a browser keeps them for ever and never mixes a new version with an old one.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmops.core.errors import SlmopsError

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        # No text ever becomes HTML, ours included: the page builds nodes.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy of the page."""
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "vary": "accept-encoding",
}
"""Beside those that every answer of the server has (access.HEADERS)."""
FIRST = "index.html"
SHOWN = ("/slmops/models", "/slmops/registry", "/metrics")
"""What the page shows to who may read it, and else does not ask for."""


@dataclass(frozen=True)
class File:
    """One file of the page, whole and compressed."""

    plain: bytes
    packed: bytes
    type: str
    tag: str
    """Its ETag: weak, for it is one for both forms."""
    lasting: bool
    """Whether its address names its content."""


@functools.cache
def table() -> Mapping[str, File]:
    """Path -> file: all that there is."""
    folder = importlib.resources.files(__package__) / "web"
    found = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in TYPES}
    whole = hashlib.sha256(b"".join(name.encode() + found[name] for name in sorted(found))).hexdigest()[:16]
    base = f"/web/{whole}/"
    first = found.pop(FIRST).replace(b'"web/', f'"{base}'.encode())
    files = {base + name: _file(name, content, lasting=True) for name, content in found.items()}
    return {"/": _file(FIRST, first, lasting=False), **files}


def _file(name: str, content: bytes, lasting: bool) -> File:
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
    return File(content, gzip.compress(content, mtime=0), TYPES[name.rpartition(".")[2]], tag, lasting)


def routes() -> list[Route]:
    """The page's own."""

    async def answered(http: Request) -> Response:
        file = table().get(http.scope["path"])
        if file is None:
            return Response(status_code=404)
        keep = "public, max-age=31536000, immutable" if file.lasting else "no-cache"
        headers = {**HEADERS, "etag": file.tag, "cache-control": keep}
        if file.tag in http.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in http.headers.get("accept-encoding", ""):
            return Response(file.plain, headers=headers, media_type=file.type)
        return Response(file.packed, headers={**headers, "content-encoding": "gzip"}, media_type=file.type)

    async def held(_: Request) -> Response:
        try:
            found = await anyio.to_thread.run_sync(_holdings)
        except SlmopsError:
            # Paths and causes are for its owner, at the command line.
            said = "the registry cannot be read: slmops models fsck says why"
            return JSONResponse({"error": {"message": said, "type": "server_error", "code": "registry"}}, 500)
        return JSONResponse(found, headers={"cache-control": "no-store"})

    return [
        Route("/", answered, methods=["GET"]),
        Route("/web/{version}/{name}", answered, methods=["GET"]),
        Route("/slmops/registry", held, methods=["GET"]),
    ]


def _holdings() -> dict[str, Any]:
    from slmops.serve import shelf  # a server answers sooner than this is read

    return shelf.holdings()
