"""A real OCI registry for tests: distribution (Debian's docker-registry), on a free port, in a temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import children

PROGRAM = shutil.which("docker-registry")
SKOPEO = shutil.which("skopeo")
needs_registry = pytest.mark.skipif(PROGRAM is None, reason="no docker-registry: apt-get install docker-registry")
needs_skopeo = pytest.mark.skipif(SKOPEO is None, reason="no skopeo: apt-get install skopeo")
USER, PASSWORD = "slm", "ops"
HTPASSWD = "slm:$2b$05$abcdefghijklmnopqrstuukk32lRZXkIkTBND1WFGJekrozY/mDfG"
CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  relativeurls: {relative}
  secret: not-a-secret
{auth}
"""


@dataclass(frozen=True)
class Running:
    """A registry that runs; `host` with its port."""

    host: str
    root: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextlib.contextmanager
def serve(work: Path, auth: str = "", *, relative: bool = False) -> Iterator[Running]:
    """auth: `htpasswd` for a user and a password, or lines of the configuration; none lets everybody in."""
    assert PROGRAM is not None
    work.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if auth == "htpasswd":
        (work / "htpasswd").write_text(HTPASSWD + "\n")
        auth = f"auth: {{htpasswd: {{realm: test, path: {work / 'htpasswd'}}}}}"
    config = CONFIG.format(root=work / "storage", port=port, auth=auth, relative=str(relative).lower())
    (work / "config.yml").write_text(config)
    with (work / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(work / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            assert process.poll() is None, (work / "log").read_text()
            time.sleep(0.05)
        yield Running(f"127.0.0.1:{port}", work / "storage")
    finally:
        children.ended(process)


def skopeo(*words: str) -> str:
    """What skopeo says."""
    assert SKOPEO is not None
    done = subprocess.run([SKOPEO, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
