"""A Hugging Face Hub in a thread: the endpoints that huggingface_hub asks, over folders of this disk.

It can cut a connection in the middle of a file, keep a repository gated or private, and tells what it was asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fakeserver

COMMIT = "c0ffee" * 6 + "c0de"
TOKEN = "hf_let_me_in"
LARGE = (".safetensors", ".gguf", ".bin", ".onnx", ".data", ".model")
PIECE = 64 << 10


@dataclass
class Hub:
    """What the server holds, and what was asked of it."""

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    cuts: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which its next download is cut, once."""
    wrong: set[str] = field(default_factory=set)
    """Files whose hash in the tree is of another content."""
    fails: dict[str, list[int]] = field(default_factory=dict)
    """File -> statuses that its next downloads are answered with."""
    slow: float = 0.0
    """Seconds before each 64 KiB of a body."""
    elsewhere: str = ""
    """Another host that files are redirected to."""
    url: str = ""
    asked: list[tuple[str, str, str, int]] = field(default_factory=list)
    """(method, path, Range header, bytes sent), in order."""

    def sent(self, suffix: str) -> int:
        """Bytes that went out for files of this suffix."""
        return sum(count for method, path, _, count in self.asked if method == "GET" and path.endswith(suffix))


@contextlib.contextmanager
def serve(repos: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(repos)
    with fakeserver.running(Handler, hub=hub) as hub.url:
        yield hub


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        folder = self.hub.repos.get(repo)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if folder is None or (repo in self.hub.private and not allowed):
            return self.fail(401 if folder is None else 404, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", "v1", COMMIT):
            return self.fail(404, "RevisionNotFound")
        if api:
            return self.describe(repo, folder, rest[0] if rest else "revision")
        if repo in self.hub.gated and not allowed:
            return self.fail(403, "GatedRepo")
        path = folder / "/".join(rest[2:])
        if not path.is_file():
            return self.fail(404, "EntryNotFound")
        return self.file(path)

    def describe(self, repo: str, folder: Path, what: str) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(folder)) for path in files]
        if what == "tree":
            tree = [self.entry(name, path) for name, path in zip(names, files, strict=True)]
            return self.send(200, json.dumps(tree).encode())
        if what == "auth-check":
            refused = repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"
            return self.fail(403, "GatedRepo") if refused else self.send(200, b"{}")
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        info["gated"] = "auto" if repo in self.hub.gated else False
        return self.send(200, json.dumps({**info, "tags": [], "private": False, "downloads": 0, "likes": 0}).encode())

    def entry(self, name: str, path: Path) -> dict[str, object]:
        """As the Hub's tree has it: what is large lies in LFS, and git keeps a pointer to it."""
        content = b"another" if path.name in self.hub.wrong else path.read_bytes()
        found: dict[str, object] = {"type": "file", "path": name, "size": path.stat().st_size, "oid": blob(content)}
        if path.suffix in LARGE:
            oid = hashlib.sha256(content).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
            found |= {"oid": blob(pointer), "lfs": {"oid": oid, "size": found["size"], "pointerSize": len(pointer)}}
        return found

    def file(self, path: Path) -> None:
        if self.command == "GET" and (failing := self.hub.fails.get(path.name)):
            return self.send(failing.pop(0), b"busy", {"Retry-After": "0"})
        if self.hub.elsewhere:
            return self.send(302, b"", {"Location": f"{self.hub.elsewhere}{self.path}"})
        size = path.stat().st_size
        headers = {"ETag": f'"{digest(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "")
        begin, end, status = 0, size, 200
        if wanted.startswith("bytes="):
            first, _, last = wanted[6:].partition("-")
            begin, end, status = int(first), min(size, int(last) + 1 if last else size), 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        with path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        cut = self.hub.cuts.pop(path.name, None) if self.command == "GET" else None
        self.send(status, content, headers, cut)

    def fail(self, status: int, code: str) -> None:
        self.send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[:cut] if self.command == "GET" else b""
        self.hub.asked.append((self.command, self.path, self.headers.get("Range", ""), len(sent)))
        with contextlib.suppress(ConnectionError):  # who asked was killed
            for start in range(0, len(sent), PIECE):
                time.sleep(self.hub.slow)
                self.wfile.write(sent[start : start + PIECE])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def blob(content: bytes) -> str:
    """What `git hash-object` says."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
