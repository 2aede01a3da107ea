"""Export and import, and archives made to harm."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from filed import artifact
from slmops.core.errors import CorruptInput, NoSpace, OutputExists, SlmopsError, SourceNotFound, Unsupported, UsageError
from slmops.registry import Registry, archive, fsck
from slmops.registry.references import named


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    """An exported layout of one artifact with a measurement."""
    with Registry.open(tmp_path / "first") as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy:q4"))
        registry.attach(digest, "measurement", {"measured": {"speed": {"decode": 5.0}}})
        archive.send(registry, [digest], tmp_path / "laid")
    return tmp_path / "laid"


def taken(path: Path, root: Path, **options: object) -> list[str]:
    with Registry.open(root) as registry, archive.opened(path) as source:
        archive.receive(registry, source, **options)  # type: ignore[arg-type]
        assert fsck.check(root).sound
        return [tag for row in registry.rows() for tag in row.tags]


def untouched(root: Path) -> bool:
    with Registry.open(root) as registry:
        return registry.rows() == [] and fsck.check(root).sound and not list((root / "scratch").iterdir())


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_what_is_exported_comes_back(tmp_path: Path, name: str) -> None:
    with Registry.open(tmp_path / "first") as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy:q4"))
        registry.attach(digest, "measurement", {"measured": {"speed": {"decode": 5.0}}})
        archive.send(registry, [digest], tmp_path / name)
        with pytest.raises(OutputExists):
            archive.send(registry, [digest], tmp_path / name)
    root = tmp_path / "second"
    assert taken(tmp_path / name, root) == ["toy:q4"]
    with Registry.open(root) as registry:
        assert registry.resolve("toy:q4") == digest and registry.catalog.figures(digest)[0][2] == 5.0
        assert (registry.place(digest) / "model.gguf").read_bytes() == b"x" * 70_000
        with archive.opened(tmp_path / name) as source:
            again = archive.receive(registry, source)
        assert again.new == 0
    with pytest.raises(SourceNotFound):
        taken(tmp_path / "nothing", root)


def test_a_tar_is_the_same_each_time(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "first") as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy:q4"))
        archive.send(registry, [digest], tmp_path / "1.tar")
        archive.send(registry, [digest], tmp_path / "2.tar")
        with pytest.raises(Unsupported, match="compressed"):
            archive.send(registry, [digest], tmp_path / "3.tar.gz")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_names_of_an_archive_move_none_of_ours(laid: Path, tmp_path: Path) -> None:
    root = tmp_path / "second"
    with Registry.open(root) as registry:
        mine = registry.add(artifact(tmp_path / "b", b"y"), named("toy:q4"))
    with pytest.raises(OutputExists):
        taken(laid, root)
    with Registry.open(root) as registry:
        assert registry.resolve("toy:q4") == mine and len(registry.rows()) == 1
    assert taken(laid, root, rename=named("other")) == ["other:latest", "toy:q4"]


def test_a_damaged_blob_is_not_exported(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "first") as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy"))
        path = next(path for path in map(registry.blobs.path, registry.blobs.all()) if path.stat().st_size == 70_000)
        path.chmod(0o644)
        path.write_bytes(b"y" * 70_000)
        for name in ("out", "out.tar"):
            with pytest.raises(CorruptInput, match="damaged"):
                archive.send(registry, [digest], tmp_path / name)
            assert not (tmp_path / name).exists()


def blob_of(laid: Path, size: int) -> Path:
    return next(path for path in (laid / "blobs" / "sha256").iterdir() if path.stat().st_size == size)


def edit_index(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def act(laid: Path) -> None:
        value = json.loads((laid / "index.json").read_text())
        change(value)
        (laid / "index.json").write_text(json.dumps(value))

    return act


def replace_with_link(laid: Path) -> None:
    path = blob_of(laid, 70_000)
    path.rename(laid.parent / "elsewhere")
    path.symlink_to(laid.parent / "elsewhere")


HARM: dict[str, Callable[[Path], None]] = {
    "no index": lambda laid: (laid / "index.json").unlink(),
    "an index of noise": lambda laid: (laid / "index.json").write_bytes(b"\xff" * 99),
    "an index nested deeply": lambda laid: (laid / "index.json").write_text("[" * 100_000),
    "an empty index": edit_index(lambda value: value.update(manifests=[])),
    "a digest that is a path": edit_index(lambda value: value["manifests"][0].update(digest="sha256:../../../etc/passwd")),  # type: ignore[index]
    "a size of minus one": edit_index(lambda value: value["manifests"][0].update(size=-1)),  # type: ignore[index]
    "a manifest of a terabyte": edit_index(lambda value: value["manifests"][0].update(size=1 << 40)),  # type: ignore[index]
    "a missing blob": lambda laid: blob_of(laid, 70_000).unlink(),
    "a changed blob": lambda laid: blob_of(laid, 70_000).write_bytes(b"y" * 70_000),
    "a longer blob": lambda laid: blob_of(laid, 70_000).write_bytes(b"x" * 70_001),
    "a link": replace_with_link,
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("tarred", [False, True])
def test_a_harmful_archive_changes_nothing(laid: Path, tmp_path: Path, harm: str, tarred: bool) -> None:
    HARM[harm](laid)
    path = laid
    if tarred:
        path = tmp_path / "laid.tar"
        with tarfile.open(path, "w") as made:
            made.add(laid, ".")
    with pytest.raises(SlmopsError):
        taken(path, tmp_path / "second")
    assert untouched(tmp_path / "second")


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "blobs/sha256/../../x", "blobs/sha256/" + "g" * 64, "x", "blobs/sha512/" + "0" * 64]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_of_anything_else_is_refused(laid: Path, tmp_path: Path, name: str, kind: bytes) -> None:
    path = tmp_path / "laid.tar"
    with tarfile.open(path, "w") as made:
        made.add(laid, ".")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "index.json"
        made.addfile(member, io.BytesIO())
    with pytest.raises(CorruptInput, match="no place"):
        taken(path, tmp_path / "second")
    assert untouched(tmp_path / "second")


def test_a_tar_cut_off_anywhere_is_refused(laid: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as made:
        made.add(laid, ".")
    content = whole.read_bytes()
    end = len(content.rstrip(b"\0"))
    for cut in range(0, end, 7_001):
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        with pytest.raises(SlmopsError):
            taken(tmp_path / "cut.tar", tmp_path / "second")
    assert untouched(tmp_path / "second")


def test_an_extended_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 9 << 30)  # sparse
    with pytest.raises(CorruptInput):
        taken(path, tmp_path / "second")


def test_what_the_disk_has_no_room_for_is_not_begun(laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(NoSpace, match="left"):
        taken(laid, tmp_path / "second")


def test_one_name_is_for_one_artifact(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "first") as registry:
        both = [registry.add(artifact(tmp_path / fill, fill.encode()), named(fill)) for fill in "ab"]
        archive.send(registry, both, tmp_path / "both.tar")
    with pytest.raises(UsageError, match="2 artifacts"):
        taken(tmp_path / "both.tar", tmp_path / "second", rename=named("c"))
    assert taken(tmp_path / "both.tar", tmp_path / "second") == ["a:latest", "b:latest"]


@pytest.mark.skipif(
    shutil.which("skopeo") is None, reason="skopeo is not on PATH: an OCI tool does not read the layout here"
)
def test_skopeo_copies_it(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "first") as registry:
        digest = registry.add(artifact(tmp_path / "a"), named("toy:q4"))
    copied = f"oci:{tmp_path / 'second'}:toy:q4"
    subprocess.run(
        ["skopeo", "copy", f"oci:{tmp_path / 'first'}:toy:q4", copied], check=True, capture_output=True, timeout=60
    )
    with Registry.open(tmp_path / "third") as registry, archive.opened(tmp_path / "second") as source:
        assert archive.receive(registry, source).artifacts == (digest,)
