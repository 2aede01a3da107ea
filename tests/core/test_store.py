"""Folders appear whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import children
from slmops.core import store
from slmops.core.errors import NoSpace, OutputExists


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_staged_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with store.staged(final) as folder:
        (folder / "file").write_text("x")
        assert not final.exists()
    assert everything(tmp_path) == ["deep", "deep/out", "deep/out/file"]


def test_staged_vanishes_on_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.staged(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError
    assert everything(tmp_path) == []


def test_a_text_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    store.write_whole(path, "first ü")
    store.write_whole(path, "second")
    with pytest.raises(UnicodeEncodeError):
        store.write_whole(path, "x" * 100_000 + "\udce9")
    assert path.read_text() == "second" and everything(tmp_path) == ["out.html"]


def test_a_scratch_folder_goes_and_so_does_what_a_killed_process_left_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = f"""
        import os, tempfile
        tempfile.tempdir = {str(tmp_path)!r}
        from slmops.core import store
        with store.scratch("solve") as folder:
            (folder / "large").write_bytes(bytes(100))
            print(folder, flush=True)
            os.read(0, 1)
    """
    command = [sys.executable, "-c", textwrap.dedent(words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        foreign = left.with_name("slmops-elsewhere.4194305.solve.x")
        foreign.mkdir()
        with store.scratch("verify") as folder:
            assert sorted(tmp_path.iterdir()) == sorted([left, foreign, folder]) and (left / "large").exists()
        process.kill()
        process.wait(timeout=60)
    assert left.exists()
    with store.scratch("verify") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([foreign, folder])
    assert list(tmp_path.iterdir()) == [foreign]


def test_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(OutputExists, match="already there"), store.staged(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert everything(tmp_path) == ["out", "out/precious"]


def test_replace_swaps_whole_folders(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with store.staged(tmp_path / "out", replace=True) as folder:
            (folder / content).write_text(content)
    assert everything(tmp_path) == ["out", "out/new"]


def test_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="no space left"), store.staged(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert everything(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_no_final_name_and_the_next_sweeps_up(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from slmops.core import store
        with store.staged(Path(sys.argv[1])) as folder:
            (folder / "half").write_text("x")
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    final = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", script, str(final)], stdout=subprocess.PIPE, text=True)
    assert children.line(child) == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    child.stdout.close()
    assert not final.exists() and len(list(tmp_path.iterdir())) == 1
    with store.staged(final) as folder:
        (folder / "whole").write_text("x")
    assert everything(tmp_path) == ["out", "out/whole"]
