"""The registry's promises, one process at a time."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filed import artifact
from slmops.core.errors import CorruptInput, OutputExists, SourceNotFound, Unsupported, UsageError
from slmops.registry import Registry, fsck, gc, lineage
from slmops.registry import blobs as blob_store
from slmops.registry.index import Index
from slmops.registry.policy import Policy
from slmops.registry.references import named


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as one:
        yield one


def flip(path: Path, *, quietly: bool = False) -> None:
    """Change one bit; quietly: leave the file's times as they were."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as handle:
        byte = handle.read(1)
        handle.seek(0)
        handle.write(bytes([byte[0] ^ 1]))
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def weights(registry: Registry, digest: str) -> Path:
    layer = next(one for one in registry.manifest(digest).layers if one.path == "model.gguf")
    return registry.blobs.path(layer.blob.digest)


def test_what_is_added_is_found_and_opens_as_it_was(registry: Registry, tmp_path: Path) -> None:
    made = artifact(tmp_path / "a")
    (made / "notes.txt").write_text("not in the receipt, so not of the artifact")
    digest = registry.add(made, named("toy:q4"))
    assert registry.resolve("toy:q4") == registry.resolve("toy") == registry.resolve(digest[:15]) == digest
    folder = registry.place(digest)
    files = [path for path in made.rglob("*") if path.is_file() and path.name != "notes.txt"]
    assert {path.relative_to(made) for path in files} == {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file()
    }
    for path in files:
        assert (folder / path.relative_to(made)).read_bytes() == path.read_bytes()
    assert (folder / "model.gguf").samefile(weights(registry, digest))
    assert not (folder / "model.gguf").stat().st_mode & 0o222
    assert registry.made("key-78", "gguf") == digest and registry.made("key-78", "onnx") is None
    (made / "model.gguf").write_bytes(b"the source is the user's: the registry has its own copy")
    assert fsck.verify(registry, digest) > 70_000


def test_twice_the_same_is_once_and_shared_files_are_one(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(artifact(tmp_path / "a"), named("a"))
    assert registry.add(artifact(tmp_path / "again"), named("b")) == first
    before = set(registry.blobs.all())
    registry.add(artifact(tmp_path / "c", b"y"), named("c"))
    # New: weights, receipt, config (its digests), manifest.
    assert len(set(registry.blobs.all()) - before) == 4
    assert [row.tags for row in registry.rows()] == [("a:latest", "b:latest"), ("c:latest",)]


def test_taking_moves(registry: Registry, tmp_path: Path) -> None:
    with registry.scratch() as scratch:
        made = artifact(scratch / "made")
        inode = (made / "model.gguf").stat().st_ino
        digest = registry.add(made, named("toy"), take=True)
        assert not (made / "model.gguf").exists()
    assert weights(registry, digest).stat().st_ino == inode
    assert not list((registry.root / "scratch").iterdir())


def test_names_move_only_when_asked(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(artifact(tmp_path / "a"), named("toy"))
    with pytest.raises(OutputExists, match="already"):
        registry.add(artifact(tmp_path / "b", b"y"), named("toy"))
    assert registry.resolve("toy") == first
    second = registry.add(artifact(tmp_path / "b", b"y"), named("toy"), replace=True)
    assert registry.resolve("toy") == second != first
    assert registry.tag(first, named("old:one")) == first
    with pytest.raises(OutputExists):
        registry.tag(first, named("toy"))
    registry.refuse_taken(named("toy"), "key-79")
    with pytest.raises(OutputExists):
        registry.refuse_taken(named("toy"), "key-78")


def test_what_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    registry.add(artifact(tmp_path / "a"), named("toy:q4"))
    registry.add(artifact(tmp_path / "b", b"y"), named("toy:q8"))
    with pytest.raises(SourceNotFound, match="toy:latest") as missing:
        registry.resolve("toy")
    assert missing.value.cure == "its tags: q4, q8"
    for text in ("toy:q5", "other", "sha256:" + "0" * 64, "sha256:00000000"):
        with pytest.raises(SourceNotFound):
            registry.resolve(text)
    with pytest.raises(UsageError):
        registry.resolve("../toy")
    with pytest.raises(SourceNotFound, match="no model"):
        registry.add(tmp_path)


def test_an_artifact_of_links_code_or_lies_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * 5)
    made = artifact(tmp_path / "a")
    (made / "README.md").unlink()
    (made / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(CorruptInput, match="link"):
        registry.add(made, named("a"))
    made = artifact(tmp_path / "b")
    (made / "onnx").rename(tmp_path / "elsewhere")
    (made / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptInput, match="link"):
        registry.add(made, named("a"))
    with pytest.raises(CorruptInput, match="no name"):
        registry.add(artifact(tmp_path / "c", files={"../secret": 5}), named("a"))
    (artifact(tmp_path / "d", files={"x.py": 1}) / "x.py").write_text("x")
    with pytest.raises(Unsupported, match="code"):
        registry.add(tmp_path / "d", named("a"))
    with pytest.raises(CorruptInput, match="receipt"):
        registry.add(artifact(tmp_path / "e", files={"model.gguf": 5}), named("a"))
    assert registry.rows() == [] and not list(registry.blobs.all())


def test_opening_reads_weights_once(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    hashed: list[str] = []
    real = blob_store.Blobs.hash
    monkeypatch.setattr(blob_store.Blobs, "hash", lambda self, one: (hashed.append(one), real(self, one))[1])
    registry.place(digest)
    registry.place(digest)
    assert hashed == []  # hashed as they were written
    registry.catalog.distrust([one.blob.digest for one in registry.manifest(digest).layers])
    registry.place(digest)
    assert len(hashed) == 5
    registry.place(digest)
    assert len(hashed) == 5
    with Registry.open(registry.root, policy=Policy(verify="always")) as careful:
        careful.place(digest)
    assert len(hashed) == 10


def test_a_flipped_bit_is_found(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    registry.place(digest)
    flip(weights(registry, digest))
    with pytest.raises(CorruptInput, match="damaged"):
        registry.place(digest)
    with pytest.raises(CorruptInput, match="damaged"):
        fsck.verify(registry, digest)
    assert [one.what for one in fsck.check(registry.root).problems] == ["blob"]


def test_another_tools_spelling_of_the_layout_is_no_fault(registry: Registry, tmp_path: Path) -> None:
    registry.add(artifact(tmp_path / "made"), named("home"))
    (registry.root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')  # skopeo's
    assert fsck.check(registry.root).sound
    (registry.root / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    assert not fsck.check(registry.root).sound


def test_a_flip_that_keeps_the_times_is_found_by_policy_verify_and_fsck(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    flip(weights(registry, digest), quietly=True)
    registry.place(digest)  # the limit: the same file by all that stat tells
    with (
        Registry.open(registry.root, policy=Policy(verify="always")) as careful,
        pytest.raises(CorruptInput, match="damaged"),
    ):
        careful.place(digest)
    with pytest.raises(CorruptInput, match="damaged"):
        registry.place(digest)  # and is not trusted from then on


def test_every_file_of_the_layout_is_covered_by_fsck(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    registry.attach(digest, "measurement", {"measured": {"speed": {"decode": 5.0}}})
    assert fsck.check(registry.root).sound
    paths = [*(registry.root / "blobs" / "sha256").iterdir(), registry.root / "index.json", registry.root / "oci-layout"]
    for path in paths:
        flip(path, quietly=True)
        assert not fsck.check(registry.root).sound, path
        flip(path, quietly=True)
    assert fsck.check(registry.root).sound


def test_a_flip_within_the_index_is_found_and_mended(registry: Registry, tmp_path: Path) -> None:
    """What is left of it is JSON still, and says something else that nobody asks for."""
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    path = registry.root / "index.json"
    before, text = path.stat(), path.read_text()
    for word in ("artifactType", "vnd.cncf.model.manifest", "vnd.oci.image.index"):
        path.write_text(text.replace(word, word[:-1] + chr(ord(word[-1]) ^ 1), 1))  # in place
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert [one.what for one in fsck.check(registry.root).problems] == ["index"], word
    assert fsck.check(registry.root, repair=True).sound and fsck.check(registry.root).sound
    with Registry.open(registry.root) as again:
        assert again.resolve("toy") == digest


def test_adding_again_heals(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    registry.place(digest)
    flip(weights(registry, digest))
    checked = fsck.check(registry.root, repair=True)
    assert checked.problems[0].what == "blob" and not checked.sound
    assert registry.add(artifact(tmp_path / "again"), named("toy")) == digest
    assert (registry.place(digest) / "model.gguf").read_bytes() == b"x" * 70_000
    assert fsck.check(registry.root).sound


def test_a_lost_index_is_rebuilt_with_its_tags(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    sound = (registry.root / "index.json").read_text()
    for break_it in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        break_it(registry.root / "index.json")
        with pytest.raises(CorruptInput, match=r"index\.json"):
            Registry.open(registry.root)
        assert fsck.check(registry.root, repair=True).sound
        assert (registry.root / "index.json").read_text() == sound
    with Registry.open(registry.root) as again:
        assert again.resolve("toy") == digest


@pytest.mark.parametrize("loss", ["gone", "noise", "older"])
def test_the_catalog_is_made_from_the_manifests_alone(tmp_path: Path, loss: str) -> None:
    root = tmp_path / "home"
    with Registry.open(root) as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy"), named("b:c"))
        verdict = {"gate": "quality", "passed": True, "blocks": True, "said": "kept"}
        registry.attach(digest, "measurement", {"measured": {"speed": {"decode": 5.0}}, "verdicts": [verdict]})

        def everything(one: Registry) -> list[object]:
            return [
                one.rows(),
                one.catalog.lineage(),
                one.catalog.figures(digest),
                one.catalog.gates(digest),
                one.made("key-78", "gguf"),
            ]

        before = everything(registry)
        registry.reindex()
        assert everything(registry) == before
    if loss == "gone":
        (root / "catalog.sqlite").unlink()
    elif loss == "noise":
        (root / "catalog.sqlite").write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(root / "catalog.sqlite") as db:
            db.execute("pragma user_version = 0")
        db.close()
    with Registry.open(root) as registry:
        assert everything(registry) == before


def test_another_tool_may_write_to_the_layout(registry: Registry, tmp_path: Path) -> None:
    """As skopeo or oras do: a blob, a manifest, an entry; the next look sees it, and keeps what it does not understand."""
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    index = json.loads((registry.root / "index.json").read_text())
    entry = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "copied:here"}}
    other = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + "0" * 64, "size": 5}
    index["manifests"] += [entry, other]
    (registry.root / "index.json").write_text(json.dumps(index))
    with Registry.open(registry.root) as again:
        assert again.resolve("copied:here") == digest
        again.tag("toy", named("x"))
        assert other in json.loads((registry.root / "index.json").read_text())["manifests"]


def test_gc_takes_what_has_no_name_when_its_grace_is_over(registry: Registry, tmp_path: Path) -> None:
    kept = registry.add(artifact(tmp_path / "a"), named("a"))
    gone = registry.add(artifact(tmp_path / "b", b"y"), named("b"))
    attached = registry.attach(gone, "measurement", {"measured": {}})
    registry.place(gone)
    assert gc.sweep(registry, 0).artifacts == ()
    registry.remove("b")
    swept = gc.sweep(registry)
    assert swept.artifacts == () and swept.young == (gone,)
    would = gc.sweep(registry, 0, dry_run=True)
    swept = gc.sweep(registry, 0)
    assert set(swept.artifacts) == {gone, attached} and swept == would
    assert [row.digest for row in registry.rows()] == [kept]
    assert [path.name for path in (registry.root / "artifacts").iterdir()] == []
    assert fsck.check(registry.root).sound
    with pytest.raises(SourceNotFound):
        registry.resolve(gone)
    assert fsck.verify(registry, kept)


def test_what_is_leased_stays(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("a"))
    with registry.lease("a", "test") as folder:
        registry.remove("a")
        assert gc.sweep(registry, 0).leased == (digest,)
        assert (folder / "model.gguf").stat().st_size == 70_000
    registry.keep(digest, "by hand", 60)
    assert gc.sweep(registry, 0).leased == (digest,)
    with registry.catalog.transaction():
        registry.catalog._db.execute("update leases set until = ?", (time.time() - 1,))
    assert gc.sweep(registry, 0).artifacts == (digest,) and not list(registry.blobs.all())


def test_a_dead_process_leases_nothing(registry: Registry, tmp_path: Path) -> None:
    from slmops.registry import leases

    digest = registry.add(artifact(tmp_path / "a"), named("a"))
    mine = leases.mine(digest, "", 60)
    registry.catalog.lease(
        leases.Lease(digest, mine.host, mine.pid, mine.started - 100, mine.until, "an earlier one of this id")
    )
    registry.remove("a")
    assert gc.sweep(registry, 0).artifacts == (digest,)


def test_gc_removes_nothing_where_it_cannot_tell(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"), named("a"))
    before = set(registry.blobs.all())
    flip(registry.blobs.path(digest))
    with pytest.raises(CorruptInput, match="unknown"):
        gc.sweep(registry, 0)
    assert set(registry.blobs.all()) == before


def test_lineage_goes_up_and_down(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(artifact(tmp_path / "a"), named("first"))
    source = {"path": str(registry.place(first) / "model.gguf")}
    second = registry.add(artifact(tmp_path / "b", b"y", source=source), named("second"))
    assert "from source: first:latest" in lineage.text(registry, second)
    assert "made into source: second:latest" in lineage.text(registry, first)
    assert "org/Toy" in lineage.text(registry, second)
    graph = lineage.dot(registry, second)
    assert f'"{first}" -> "{second}"' in graph and graph.count("->") == 2
    hostile = artifact(tmp_path / "c", b"z", source={"hub": 'x"]; }\n\x1b[31m digraph {'})
    graph = lineage.dot(registry, registry.add(hostile, named("c")))
    assert "\x1b" not in graph and '\\"' in graph


def test_an_attachment_says_no_nan_and_needs_its_subject(registry: Registry, tmp_path: Path) -> None:
    digest = registry.add(artifact(tmp_path / "a"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        registry.attach(digest, "measurement", {"measured": {"x": float("nan")}})
    with pytest.raises(SourceNotFound):
        registry.attach("sha256:" + "0" * 64, "measurement", {})
    with pytest.raises(UsageError):
        registry.attach(digest, "../x", {})


def test_a_file_system_without_links_gets_copies_that_are_checked(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    digest = registry.add(artifact(tmp_path / "a"), named("toy"))
    folder = registry.place(digest)
    assert not (folder / "model.gguf").samefile(weights(registry, digest))
    inode = (folder / "model.gguf").stat().st_ino
    assert (registry.place(digest) / "model.gguf").stat().st_ino == inode
    flip(folder / "model.gguf")
    assert (registry.place(digest) / "model.gguf").read_bytes() == b"x" * 70_000
    assert fsck.check(registry.root).sound


def test_removing_a_name_that_another_took_away_meanwhile_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry.open(tmp_path / "home") as registry, Registry.open(tmp_path / "home") as other:
        digest = registry.add(artifact(tmp_path / "a"), named("a"), named("b:x"))
        change = registry.change

        def late(edit: Callable[[Index], None]) -> None:
            other.remove("a")
            change(edit)

        monkeypatch.setattr(registry, "change", late)
        with pytest.raises(SourceNotFound, match="a:latest"):
            registry.remove("a")
        monkeypatch.undo()
        assert registry.resolve("b:x") == digest
        assert [str(one) for one in registry.remove("b")[1]] == ["b:x"]  # its only tag
