"""The safetensors parser against files that lie, and the writer's headers against the reference library."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound
from slmops.formats import _safetensors
from slmops.formats._safetensors import DTYPES, Place


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    shape, offsets = (list(v) if isinstance(v, tuple) else v for v in (shape, offsets))
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b.c": np.arange(5, dtype=np.int64),
        "half": np.ones((2, 2, 2), np.float16),
        "empty": np.zeros((0, 7), np.uint8),
        "scalar": np.array(3, np.int32),
    }
    save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "pt"})
    tensors, metadata = _safetensors.header(tmp_path / "m.safetensors")
    assert metadata == {"format": "pt"} and tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (tensors[name].shape, tensors[name].dtype) == (array.shape, array.dtype)
        if array.ndim:
            assert np.array_equal(tensors[name].rows(0, len(array)), array)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b" {}",
        b"{",
        b"\xff{}",
        b'{"a":1}',
        b"{" + b'"a":{' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": entry() | {"more": 1}},
        {"a": entry("F33")},
        {"a": entry(["F32"])},
        {"a": entry(shape="2")},
        {"a": entry(shape=(2.0,))},
        {"a": entry(shape=(True, 2))},
        {"a": entry(shape=(-1, -2))},
        {"a": entry(shape=(1,) * 17 + (2,))},
        {"a": entry(shape=(3,))},
        {"a": entry(shape=(2**62, 2**62, 0), offsets=(0, 8))},
        {"a": entry(offsets=(0, 8, 8))},
        {"a": entry(offsets=(8, 0))},
        {"a": entry(offsets=(-8, 0))},
        {"a": entry(offsets=(4, 12))},
        {"a": entry(offsets=(2**63, 2**63 + 8))},
        {"a": entry(), "b": entry()},
        {"a": entry(shape=(1,), offsets=(0, 4))},
        {"a": entry(), "__metadata__": {"format": 1}},
        {"a": entry(), "__metadata__": []},
    ],
    ids=lambda header: str(header)[:60],
)
def test_refuses_headers_that_lie(tmp_path: Path, header: Any) -> None:
    with pytest.raises(CorruptInput):
        _safetensors.parse(written(tmp_path / "m.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 100_000_001, 1000, 3])
def test_refuses_lengths_that_lie(tmp_path: Path, length: int) -> None:
    with pytest.raises(CorruptInput):
        _safetensors.parse(written(tmp_path / "m.safetensors", {"a": entry()}, bytes(8), length))


def test_absent_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        _safetensors.parse(tmp_path / "none.safetensors")
    whole = written(tmp_path / "m.safetensors", {"a": entry()}, bytes(8)).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "m.safetensors").write_bytes(whole[:size])
        with pytest.raises(CorruptInput):
            _safetensors.parse(tmp_path / "m.safetensors")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 150), st.integers(0, 255))
def test_never_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int, value: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    content = bytearray(written(path, {"a": entry(), "b": entry("U8", (4,), (8, 12))}, bytes(12)).read_bytes())
    content[at % len(content)] = value
    for hostile in (bytes(content), struct.pack("<Q", len(junk)) + junk, junk):
        path.write_bytes(hostile)
        with contextlib.suppress(SlmopsError):
            _safetensors.parse(path)


def places() -> list[list[Place]]:
    return [
        [
            Place(f"{i}.w", DTYPES["U32"], (4, 6), f"r{i}", lambda b: b),
            Place(f"{i}.n", DTYPES["I64"], (1,), content=bytes(8)),
        ]
        for i in range(3)
    ]


def test_lays_out_files_that_the_reference_library_reads(tmp_path: Path) -> None:
    files = _safetensors.lay_out(places(), {"format": "pt"}, parameters=72, shard_bytes=150)
    assert sorted(files.sizes) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for name, size in files.sizes.items():
        content = bytearray(size)
        for file, offset, data in files.literals:
            if file == name:
                content[offset : offset + len(data)] = data
        for role, regions in files.regions.items():
            for region in regions:
                if region.file == name:
                    assert region.unit_bytes == 24 and region.offset % 4 == 0
                    content[region.offset : region.offset + 96] = np.full((4, 6), int(role[1:]), np.uint32).tobytes()
        (tmp_path / name).write_bytes(content)
        assert {int(k[0]): int(v[0, 0]) for k, v in load_file(tmp_path / name).items() if k.endswith("w")}
    for name, content in files.index.items():
        (tmp_path / name).write_bytes(content)
    tensors = _safetensors.parse_folder(tmp_path)
    assert [int(tensors[f"{i}.w"].rows(0, 4)[3, 5]) for i in range(3)] == [0, 1, 2]
    index = json.loads(files.index["model.safetensors.index.json"])
    assert index["metadata"] == {"total_size": 312, "total_parameters": 72}


@pytest.mark.parametrize("name", ["../m.safetensors", "/m.safetensors", "a\\m.safetensors", 7, "absent.safetensors"])
def test_an_index_stays_in_its_folder(tmp_path: Path, name: Any) -> None:
    save_file({"a": np.ones(2)}, tmp_path / "m.safetensors")
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((CorruptInput, SourceNotFound)):
        _safetensors.parse_folder(tmp_path)
