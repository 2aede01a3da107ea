"""slmops models push, pull and sync with a real OCI registry, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filed import artifact
from needs import needs
from ociregistry import Running, needs_registry, serve

pytestmark = [needs_registry, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve(tmp_path_factory.mktemp("registry")) as running:
        yield running


def slmops(home: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SLMOPS_HOME": str(home)}
    command = [sys.executable, "-m", "slmops", "models", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def said(home: Path, *words: object, code: int = 0) -> Any:
    return json.loads(slmops(home, *words, "--json", code=code).stdout)


def test_push_and_pull(tmp_path: Path, server: Running) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    slmops(one, "add", artifact(tmp_path / "made"), "--name", "home:q4")
    place = f"oci:{server.host}/kitchen/home"
    pushed = said(one, "push", "home", place)
    assert pushed["place"] == f"{place}:q4" and pushed["attachments"] == 2 and pushed["sent"] > 70_000
    assert pushed["digest"] in slmops(one, "push", "home", place).stdout
    pulled = said(two, "pull", place)
    assert pulled["artifacts"] == [pushed["digest"]] and pulled["names"] == ["home:q4"]
    slmops(two, "verify", "home:q4")
    slmops(one, "add", artifact(tmp_path / "next", b"n"), "--name", "next")
    assert "already" in slmops(one, "push", "next", f"{place}:q4", code=12).stderr
    assert said(one, "push", "next", f"{place}:q4", "--force")["digest"] != pushed["digest"]
    slmops(one, "push", pushed["digest"], place, code=2)
    slmops(one, "push", "none", place, code=3)
    slmops(one, "push", "home", "oci:127.0.0.1:9/x", code=16)
    slmops(one, "push", "home", place, "--jobs", "0", code=2)
    slmops(two, "pull", f"{place}:none", code=3)


@needs("model_signing")
def test_what_is_pushed_is_signed_on_the_way(tmp_path: Path, server: Running) -> None:
    one, two, key = tmp_path / "one", tmp_path / "two", tmp_path / "release.pem"
    slmops(one, "add", artifact(tmp_path / "made"), "--name", "home:q4")
    slmops(one, "key", key)
    place = f"oci:{server.host}/signed/home"
    slmops(one, "push", "home", place, "--key", key, "--sigstore", code=2)
    assert said(one, "push", "home", place, "--key", key)["attachments"] == 3
    slmops(two, "pull", place)
    slmops(two, "verify", "home", "--key", key.with_suffix(".pub"))


def test_sync(tmp_path: Path, server: Running) -> None:
    one, two, remote = tmp_path / "one", tmp_path / "two", f"oci:{server.host}/hub"
    slmops(one, "add", artifact(tmp_path / "a"), "--name", "home:q4")
    assert "-> home:q4: dry run" in slmops(one, "sync", remote, "--dry-run").stdout
    assert [row["done"] for row in said(one, "sync", remote)["differences"]] == [True]
    assert "<- home:q4" in slmops(two, "sync", remote, "home*", "--pull").stdout
    slmops(one, "add", artifact(tmp_path / "b", b"b"), "--name", "home:q4", "--force")
    slmops(two, "add", artifact(tmp_path / "c", b"c"), "--name", "home:q4", "--force")
    slmops(one, "sync", remote)
    left = slmops(two, "sync", remote, code=12)
    assert "!! home:q4: moved on both sides" in left.stdout and "--prefer" in left.stderr
    assert said(two, "sync", remote, "--prefer", "local")["differences"][0]["action"] == "push"
    slmops(two, "sync", remote, "--push", "--pull", code=2)
    off = slmops(two, "sync", "oci:127.0.0.1:9/hub", code=16)
    assert "-> home:q4: waits" in off.stdout and "1 waiting for a link" in off.stdout


def test_the_documented_walk(tmp_path: Path, server: Running) -> None:
    text = (Path(__file__).parents[2] / "docs" / "registry.md").read_text(encoding="utf-8")
    host = "registry.example.com"
    walk = [line.strip().replace(host, server.host).split()[2:] for line in text.splitlines() if f" oci:{host}" in line]
    assert [words[0] for words in walk] == ["push", "pull", "sync", "sync"]
    home = tmp_path / "home"
    slmops(home, "add", artifact(tmp_path / "made"), "--name", "home:q4")
    for words in walk:
        slmops(home, *words)
