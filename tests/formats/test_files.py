"""Files of a folder that may be hostile: nothing outside it is read, and nothing past its bound."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.formats import _files
from slmops.formats._columns import turn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("s")
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "file").write_text("deep")
    (made / "file").write_text("text")
    (made / "link").symlink_to("file")
    (made / "out").symlink_to(tmp_path / "secret")
    (made / "gone").symlink_to("nothing")
    (made / "round").symlink_to("round")
    (made / "door").symlink_to(tmp_path)
    return made


@pytest.mark.parametrize("name", ["file", "link", "sub/file", "./file"])
def test_what_lies_in_the_folder_is_read(folder: Path, name: str) -> None:
    assert _files.content(folder, name) == _files.content(folder, name, limit=4) == (b"deep" if "sub" in name else b"text")
    with pytest.raises(CorruptInput, match="4 bytes"):
        _files.content(folder, name, limit=3)


@pytest.mark.parametrize("name", ["out", "../secret", "door/secret", "gone", "round", ".", "..", "sub", "file\0", "x" * 400])
def test_what_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CorruptInput):
        _files.inside(folder, name)


def test_an_absolute_name_is_no_file_of_the_folder(folder: Path) -> None:
    with pytest.raises(CorruptInput, match="out of"):
        _files.inside(folder, str(folder.parent / "secret"))
    with pytest.raises(SourceNotFound):
        _files.inside(folder, "none")


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, ml_dtypes.bfloat16, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(3, 5), (256, 256), (1000, 67), (9, 8001), (264, 1023)])
def test_a_matrix_is_turned(dtype: type, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    assert np.array_equal(turn(values), values.T) and turn(values).flags.c_contiguous
    part = values[:, 1:-1]  # as columns() gives them: rows that do not follow each other
    assert np.array_equal(turn(part), part.T)
