"""The safetensors container: a parser that trusts nothing, and the places of tensors in files yet to be written.

Layout: u64 little-endian length of the header, the header (JSON, padded with spaces), then the tensors, row-major and
without holes. Source: github.com/huggingface/safetensors, README ("Format") and src/tensor.rs (what is refused).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from slmops.core.errors import CorruptInput, SourceNotFound
from slmops.core.layout import Block, Region
from slmops.core.tensor import Array, Stored
from slmops.formats import _files

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER = 100_000_000
MAX_AXES = 16
MAX_INDEX = 100_000_000
SHARD_BYTES = 5_000_000_000
"""Larger checkpoints are split, as Hugging Face's own are."""


def parse(path: Path) -> dict[str, Stored]:
    """Name -> tensor of one file, in file order; nothing but the header is read.

    Raises SourceNotFound without a file, CorruptInput where the header promises what the file cannot hold.
    """
    return header(path)[0]


def header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors and the free-form metadata of one file."""
    if not path.is_file():
        raise SourceNotFound(f"{path} is not a file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _corrupt(path, f"has {size} bytes, too few for a header")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER or length > size - 8:
            raise _corrupt(path, f"claims a header of {length} bytes, more than it may have")
        text = file.read(length)
    table = _json(path, text)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(path, "has metadata that does not map text to text")
    base, room = 8 + length, size - 8 - length
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, Stored] = {}
    for name, entry in table.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if end > room:
            raise _corrupt(path, f"ends before the tensor {_short(name)} does")
        spans.append((begin, end, name))
        tensors[name] = Stored(path, base + begin, shape, dtype)
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise _corrupt(path, f"has {'overlapping bytes' if begin < reached else 'a hole'} at tensor {_short(name)}")
        reached = end
    if reached != room:
        raise _corrupt(path, f"has {room - reached} bytes that belong to no tensor")
    return {name: tensors[name] for _, _, name in sorted(spans)}, metadata


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one tensor, each checked against the others with unbounded integers."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"describes tensor {_short(name)} by something else than dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _corrupt(path, f"stores tensor {_short(name)} as {_short(str(entry['dtype']))}, which is no known dtype")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or len(shape) > MAX_AXES:
        raise _corrupt(path, f"gives tensor {_short(name)} a shape that is none")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _corrupt(path, f"gives tensor {_short(name)} data_offsets that are not two positions")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _corrupt(path, f"gives tensor {_short(name)} {end - begin} bytes, which its shape and dtype do not make")
    return dtype, tuple(shape), begin, end


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _json(path: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _corrupt(path, "has a header that is not a JSON object")

    try:
        result = json.loads(text.decode(), object_pairs_hook=_files.unique)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"has a header that cannot be read ({_short(str(error))})") from None
    assert isinstance(result, dict)
    return result


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _corrupt(path: Path, what: str) -> CorruptInput:
    return CorruptInput(f"{path.name} {what}", "download or write it again")


def parse_folder(folder: Path) -> dict[str, Stored]:
    """Name -> tensor of a whole checkpoint: model.safetensors, or the files that model.safetensors.index.json names."""
    name = "model.safetensors.index.json"
    if not _files.there(folder, name):
        return parse(_files.inside(folder, "model.safetensors"))
    index = _files.inside(folder, name)
    if index.stat().st_size > MAX_INDEX:
        raise _corrupt(index, "is larger than any index is")
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        # A name with a path in it would lead out of the folder.
        valid = all(isinstance(name, str) and Path(name).name == name and "\\" not in name for name in places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise _corrupt(index, "does not map tensors to files beside it")
    result: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        for tensor, stored in parse(_files.inside(folder, name)).items():
            if tensor in result:
                raise _corrupt(folder / name, f"repeats the tensor {_short(tensor)} of another file")
            result[tensor] = stored
    for tensor, name in places.items():
        if tensor not in result or result[tensor].path.name != name:
            raise _corrupt(index, f"promises tensor {_short(str(tensor))} in {name}, where it is not")
    return result


@dataclass(frozen=True)
class Place:
    """A tensor that is to be written: rows of `role` pass through `encode`, or `content` is there already.

    One row of the stored tensor takes `unit_rows` rows of the model's.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    role: str = ""
    encode: Callable[[Block], Array] | None = None
    unit_rows: int = 1
    content: bytes = b""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Files:
    """Places of all tensors of a checkpoint, in the terms of core/layout.py."""

    sizes: dict[str, int]
    literals: tuple[tuple[str, int, bytes], ...]
    regions: dict[str, tuple[Region, ...]]
    index: dict[str, bytes]
    """model.safetensors.index.json."""


def lay_out(
    groups: Iterable[Sequence[Place]], metadata: Mapping[str, str], *, parameters: int, shard_bytes: int = SHARD_BYTES
) -> Files:
    """Places -> files of at most `shard_bytes` (a group is never split: codes and their scales load together)."""
    shards: list[list[Place]] = [[]]
    filled = 0
    for group in groups:
        size = sum(place.nbytes for place in group)
        if filled and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].extend(group)
        filled += size
    sizes: dict[str, int] = {}
    literals: list[tuple[str, int, bytes]] = []
    regions: dict[str, list[Region]] = {}
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        head, offsets = build(shard, metadata)
        literals.append((file, 0, head))
        sizes[file] = len(head)
        for place in shard:
            weight_map[place.name] = file
            sizes[file] += place.nbytes
            total += place.nbytes
            offset = offsets[place.name]
            if place.encode is None:
                literals.append((file, offset, place.content))
            else:
                row = math.prod(place.shape[1:]) * place.dtype.itemsize
                regions.setdefault(place.role, []).append(Region(file, offset, row, place.encode, place.unit_rows))
    counts = {"total_size": total, "total_parameters": parameters}
    index = {"metadata": counts, "weight_map": dict(sorted(weight_map.items()))}
    return Files(
        sizes,
        tuple(literals),
        {role: tuple(parts) for role, parts in regions.items()},
        {"model.safetensors.index.json": to_json(index)},
    )


def build(places: Sequence[Place], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Length, header and padding of one file, and each tensor's offset in it."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begins: dict[str, int] = {}
    reached = 0
    # Wide dtypes first, as the reference writer does: so every tensor is aligned to its dtype.
    for place in sorted(places, key=lambda place: -place.dtype.itemsize):
        begins[place.name] = reached
        end = reached + place.nbytes
        table[place.name] = {
            "dtype": NAMES[place.dtype],
            "shape": list(place.shape),
            "data_offsets": [reached, end],
        }
        reached = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % 64)
    base = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: base + begin for name, begin in begins.items()}


def to_json(value: Any) -> bytes:
    """As Hugging Face writes its config files: two blanks of indent, a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
