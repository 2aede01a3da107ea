"""Processes at once: nothing is lost, nothing half done is seen, nothing leased or being written is removed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import children
import crashes
import interleavings
from filed import artifact
from ociregistry import needs_registry
from slmops.registry import Registry, fsck
from slmops.registry.references import named


def start(script: str, *words: object) -> subprocess.Popen[str]:
    head = "import sys\nfrom pathlib import Path\nfrom slmops.registry import Registry, gc, fsck\n"
    head += "from slmops.registry.references import named\nfrom slmops.core.errors import *\n"
    head += "root, what = map(Path, sys.argv[1:3])\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*started: subprocess.Popen[str]) -> list[str]:
    said = []
    for child in started:
        out, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
        said.append(out)
    return said


ADD = """
for _ in range(5):
    with Registry.open(root) as registry:
        print(registry.add(what, named(what.name), named("both"), replace=True))
"""
SWEEP = """
for _ in range(20):
    with Registry.open(root) as registry:
        gc.sweep(registry, 0)
"""


def test_two_first_uses_make_one_registry(tmp_path: Path) -> None:
    root = tmp_path / "home"
    folders = [artifact(tmp_path / "a"), artifact(tmp_path / "b", b"y"), artifact(tmp_path / "c")]
    said = finish(*(start(ADD, root, folder) for folder in folders))
    digests = [set(out.split()) for out in said]
    assert all(len(one) == 1 for one in digests) and digests[0] == digests[2] != digests[1]
    with Registry.open(root) as registry:
        assert {tag for row in registry.rows() for tag in row.tags} == {"a:latest", "b:latest", "c:latest", "both:latest"}
    assert fsck.check(root).problems == ()


def test_gc_during_add_takes_nothing_that_is_being_added(tmp_path: Path) -> None:
    root = tmp_path / "home"
    Registry.open(root).close()
    add = """
    for number in range(8):
        with Registry.open(root) as registry:
            digest = registry.add(what, named(f"n{number}"))
            assert fsck.verify(registry, digest)
            registry.remove(f"n{number}")
            registry.add(what, named("stays"), replace=True)
            with registry.lease("stays") as folder:
                assert (folder / "model.gguf").stat().st_size == 70_000
            registry.remove("stays")
    with Registry.open(root) as registry:
        registry.add(what, named("end"))
    """
    finish(start(add, root, artifact(tmp_path / "a")), start(SWEEP, root, tmp_path))
    with Registry.open(root) as registry:
        assert fsck.verify(registry, registry.resolve("end"))
    assert fsck.check(root).problems == ()


def test_every_tag_of_a_race_is_there(tmp_path: Path) -> None:
    root = tmp_path / "home"
    with Registry.open(root) as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("a"))
    script = """
    with Registry.open(root) as registry:
        for number in range(20):
            registry.tag("a", named(f"{what.name}:{number}"))
            try:
                registry.tag("a", named("won"))
            except OutputExists:
                pass
    """
    finish(*(start(script, root, name) for name in ("x", "y")), start(SWEEP, root, tmp_path))
    with Registry.open(root) as registry:
        tags = next(row.tags for row in registry.rows() if row.digest == digest)
    assert set(tags) == {f"{name}:{number}" for name in "xy" for number in range(20)} | {"a:latest", "won:latest"}
    assert fsck.check(root).problems == ()


def test_what_another_process_leases_stays_until_it_dies(tmp_path: Path) -> None:
    root = tmp_path / "home"
    with Registry.open(root) as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("a"))
    script = """
    import time
    with Registry.open(root) as registry, registry.lease("a") as folder:
        print(folder, flush=True)
        time.sleep(60)
    """
    child = start(script, root, tmp_path)
    folder = Path(children.line(child).strip())
    with Registry.open(root) as registry:
        registry.remove("a")
        finish(start(SWEEP, root, tmp_path))
        assert (folder / "model.gguf").stat().st_size == 70_000 and registry.resolve(digest)
        child.kill()
        child.communicate(timeout=60)
        finish(start(SWEEP, root, tmp_path))
        assert not folder.exists() and not list(registry.blobs.all())
    assert fsck.check(root).problems == ()


@pytest.mark.slow
def test_a_sample_of_races_keeps_every_promise(tmp_path: Path) -> None:
    """bench/races.py runs hundreds."""
    crashes.prepare(tmp_path)
    for race in interleavings.drawn(len(interleavings.PAIRS), seed=7000):
        assert interleavings.check(race, tmp_path) == "", race


@pytest.mark.slow
@needs_registry
def test_pulls_and_pushes_beside_each_other_and_gc(tmp_path: Path) -> None:
    crashes.prepare(tmp_path)
    with crashes.served(tmp_path):
        for race in interleavings.drawn(len(interleavings.NETWORKED), 7000, interleavings.NETWORKED):
            assert interleavings.check(race, tmp_path) == "", race
