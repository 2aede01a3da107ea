"""The GGUF container, version 3: a header made from metadata and tensor places, and a parser that trusts nothing.

Layout, little-endian: magic `GGUF`, u32 version, u64 tensors, u64 metadata entries; the entries (string key, u32 type,
value); per tensor its name, u32 axes, u64 sizes (fastest first), u32 type, u64 offset; padding to the alignment; the data.
Source: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.tensor import elements

MAGIC = b"GGUF"
ALIGNMENT = 32

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FIXED = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

MOST_ENTRIES = 1 << 16
MOST_TENSORS = 1 << 17
MOST_AXES = 4
MOST_SHARDS = 1000
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
MOST_NAME = 63
"""llama.cpp keeps names of tensors in 64 bytes, with a zero at the end."""
MOST_HEADER = 1 << 26
"""Bytes; a vocabulary of 262,144 takes 10 MB."""
MOST_STRINGS = 1 << 20
"""Strings of a whole header: tokens and merges."""
READ = 1 << 20


class Kind(NamedTuple):
    """A ggml tensor type: its number, and how many bytes hold how many elements of a row."""

    name: str
    number: int
    elements: int
    nbytes: int

    def row_bytes(self, columns: int) -> int:
        return columns // self.elements * self.nbytes


KINDS = {
    kind.number: kind
    for kind in (
        Kind("F32", 0, 1, 4),
        Kind("F16", 1, 1, 2),
        Kind("Q4_0", 2, 32, 18),
        Kind("Q4_1", 3, 32, 20),
        Kind("Q5_0", 6, 32, 22),
        Kind("Q5_1", 7, 32, 24),
        Kind("Q8_0", 8, 32, 34),
        Kind("Q2_K", 10, 256, 84),
        Kind("Q3_K", 11, 256, 110),
        Kind("Q4_K", 12, 256, 144),
        Kind("Q5_K", 13, 256, 176),
        Kind("Q6_K", 14, 256, 210),
        Kind("IQ4_NL", 20, 32, 18),
        Kind("IQ4_XS", 23, 256, 136),
        Kind("IQ1_S", 19, 256, 50),
        Kind("IQ1_M", 29, 256, 56),
        Kind("IQ2_XXS", 16, 256, 66),
        Kind("IQ2_XS", 17, 256, 74),
        Kind("IQ2_S", 22, 256, 82),
        Kind("IQ3_XXS", 18, 256, 98),
        Kind("IQ3_S", 21, 256, 110),
        Kind("MXFP4", 39, 32, 17),
        Kind("BF16", 30, 1, 2),
        Kind("TQ1_0", 34, 256, 54),
        Kind("TQ2_0", 35, 256, 66),
    )
}
"""Types that can be read. Numbers: ggml.h, enum ggml_type; sizes: ggml-common.h."""

BY_NAME = {kind.name: kind for kind in KINDS.values()}


class Value(NamedTuple):
    """A metadata value with its GGUF type; `of` is the type of an array's elements."""

    kind: int
    value: Any
    of: int | None = None


def string(text: str) -> Value:
    return Value(STRING, text)


def strings(texts: Sequence[str]) -> Value:
    return Value(ARRAY, texts, STRING)


def u32(number: int) -> Value:
    return Value(U32, number)


def f32(number: float) -> Value:
    return Value(F32, number)


def boolean(flag: bool) -> Value:
    return Value(BOOL, flag)


class Place(NamedTuple):
    """A tensor of a file: its type, shape [rows, columns] (slowest axis first) and where its bytes lie."""

    kind: Kind
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return size(self.kind, self.shape)


@dataclass(frozen=True)
class Container:
    """What a GGUF file says of itself. `entries` are the metadata's own bytes, for copying them to another file."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Place]
    entries: bytes
    alignment: int
    shards: Mapping[str, Path] = field(default_factory=dict)
    """Tensor -> its file, of a model that gguf-split cut into several; `path` is then the first."""

    def file(self, tensor: str) -> Path:
        """Where a tensor lies."""
        return self.shards.get(tensor, self.path)


def size(kind: Kind, shape: tuple[int, ...]) -> int:
    return elements(shape[:-1]) * kind.row_bytes(shape[-1])


def aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    return -(-offset // alignment) * alignment


def _text(text: str) -> bytes:
    return _texts([text])


_LENGTHS = [length.to_bytes(8, "little") for length in range(256)]


def _texts(texts: Sequence[str]) -> bytes:
    """Each text behind its length; a vocabulary has hundreds of thousands, nearly all of them short."""
    parts = [b""] * (2 * len(texts))
    parts[1::2] = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts[::2] = [_LENGTHS[len(data)] if len(data) < 256 else len(data).to_bytes(8, "little") for data in parts[1::2]]
    return b"".join(parts)


def _pack_value(value: Value) -> bytes:
    if value.kind == STRING:
        return _text(value.value)
    if value.kind == ARRAY:
        assert value.of is not None
        head = struct.pack("<IQ", value.of, len(value.value))
        if value.of == STRING:
            return head + _texts(value.value)
        return head + struct.pack(f"<{len(value.value)}{FIXED[value.of]}", *value.value)
    return struct.pack("<" + FIXED[value.kind], value.value)


def pack_entries(metadata: Mapping[str, Value]) -> bytes:
    """The metadata section."""
    return b"".join(_text(key) + struct.pack("<I", value.kind) + _pack_value(value) for key, value in metadata.items())


def header(
    entries: bytes, count: int, tensors: Mapping[str, tuple[Kind, tuple[int, ...]]], alignment: int = ALIGNMENT
) -> tuple[bytes, dict[str, Place], int]:
    """Everything before the data -> (its bytes, padded; where each tensor goes; total size of the file).

    `entries` is a metadata section of `count` entries; tensors lie in the order given, each at a multiple of the alignment.
    """
    offsets: dict[str, int] = {}
    end = 0
    infos: list[bytes] = []
    for name, (kind, shape) in tensors.items():
        if len(name.encode()) > MOST_NAME:
            raise Unsupported(f"GGUF holds tensor names of up to {MOST_NAME} bytes: {name}")
        offsets[name] = end
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(_text(name) + axes + struct.pack("<IQ", kind.number, end))
        end = aligned(end + size(kind, shape), alignment)
    head = MAGIC + struct.pack("<IQQ", 3, len(tensors), count) + entries + b"".join(infos)
    start = aligned(len(head), alignment)
    places = {name: Place(*tensors[name], start + offset) for name, offset in offsets.items()}
    return head.ljust(start, b"\0"), places, start + end


_LENGTH = struct.Struct("<Q")


class _Cursor:
    """Reads a header piece by piece; no length it meets is believed before the file could hold it."""

    def __init__(self, file: BufferedReader, nbytes: int, name: str) -> None:
        self.file, self.end, self.name = file, min(nbytes, MOST_HEADER), name
        self.buffer, self.position, self.strings = bytearray(), 0, 0

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        start, stop = self.position, self.position + count
        if stop > len(self.buffer):
            self._fill(stop)
        self.position = stop
        return memoryview(bytes(self.buffer[start:stop]))

    def _fill(self, stop: int) -> None:
        if stop > self.end:
            raise CorruptInput(f"{self.name}: the GGUF header runs past the end of the file", "download it again")
        self.buffer += self.file.read(max(stop - len(self.buffer), min(READ, self.end - len(self.buffer))))
        if stop > len(self.buffer):
            raise CorruptInput(f"{self.name} ends inside its GGUF header", "download it again")

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, least: int, most: int, what: str) -> int:
        """A u64 that counts things of at least `least` bytes each."""
        count: int = self.number("Q")
        if count > most or count * least > self.end - self.position:
            raise CorruptInput(f"{self.name}: {count:,} {what} cannot be in this GGUF header", "download it again")
        return count

    def text(self, most: int = 1 << 26) -> str:
        return self.texts(1, most)[0]

    def texts(self, count: int, most: int = 1 << 26) -> list[str]:
        """Strings, each behind its length; a vocabulary has hundreds of thousands, so without a call for each."""
        self.strings += count
        if self.strings > MOST_STRINGS:
            raise CorruptInput(f"{self.name}: {self.strings:,} strings cannot be in this GGUF header", "download it again")
        at, buffer, result = self.position, self.buffer, []
        for _ in range(count):
            if at + 8 > len(buffer):
                self._fill(at + 8)
            begin = at + 8
            (length,) = _LENGTH.unpack_from(buffer, at)
            at = begin + length
            if length > most:
                raise CorruptInput(f"{self.name}: a string of {length:,} bytes in its GGUF header", "download it again")
            if at > len(buffer):
                self._fill(at)
            try:
                result.append(buffer[begin:at].decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:
                raise CorruptInput(f"{self.name}: a string of the GGUF header is not UTF-8", "download it again") from None
        self.position = at
        return result

    def value(self, kind: int) -> Value:
        if kind == STRING:
            return Value(kind, self.text())
        if kind != ARRAY:
            return Value(kind, self.number(self.code(kind)))
        of = self.number("I")
        if of == STRING:
            return Value(kind, self.texts(self.count(8, MOST_STRINGS, "strings")), of)
        code = self.code(of)
        width = struct.calcsize("<" + code)
        data = self.take(self.count(width, 1 << 26, "array elements") * width)
        return Value(kind, np.frombuffer(data, np.dtype(code).newbyteorder("<")), of)

    def code(self, kind: int) -> str:
        if kind not in FIXED:
            raise CorruptInput(f"{self.name}: metadata type {kind} is unknown (or an array of arrays)")
        return FIXED[kind]


def parse(path: Path) -> Container:
    """Read the header. Raises SourceNotFound, CorruptInput where it promises what the file cannot hold, or Unsupported."""
    if not path.is_file():
        raise SourceNotFound(f"{path} is not a file", "give a .gguf file or the folder that holds it")
    nbytes = path.stat().st_size
    with path.open("rb") as file:
        cursor = _Cursor(file, nbytes, path.name)
        if nbytes < 24 or cursor.take(4) != MAGIC:
            raise CorruptInput(f"{path.name} is not a GGUF file")
        version = cursor.number("I")
        if version != 3:
            raise Unsupported(f"{path.name} is GGUF version {version}; version 3 can be read", "convert the model again")
        tensor_count = cursor.count(24, MOST_TENSORS, "tensors")
        entry_count = cursor.count(13, MOST_ENTRIES, "metadata entries")
        start = cursor.position
        metadata: dict[str, Value] = {}
        for _ in range(entry_count):
            key = cursor.text(1 << 16)
            if key in metadata:
                raise CorruptInput(f"{path.name} holds the metadata key {key[:80]!r} twice")
            metadata[key] = cursor.value(cursor.number("I"))
        end = cursor.position
        alignment = metadata.get("general.alignment", u32(ALIGNMENT)).value
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise CorruptInput(f"{path.name}: general.alignment is {alignment!r}, not a power of two of at least 8")
        infos = [_info(cursor) for _ in range(tensor_count)]
        data = aligned(cursor.position, alignment)
        entries = bytes(cursor.buffer[start:end])
    return Container(path, metadata, _placed(path.name, infos, data, nbytes, alignment), entries, alignment)


def shards(path: Path) -> list[Path]:
    """The files of a model that gguf-split cut into several (NAME-00001-of-00003.gguf), in order; else the file alone."""
    match = SHARD.fullmatch(path.name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= MOST_SHARDS:
        return [path]
    return [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)]


def parse_all(path: Path) -> Container:
    """The same of a model in several files: metadata of the first, tensors of all."""
    files = shards(path)
    if missing := [file for file in files if not file.is_file()]:
        raise SourceNotFound(f"{missing[0].name} is missing, a part of {path.name}", "download it too")
    whole = parse(files[0])
    split = whole.metadata.get("split.count")
    count = 1 if split is None else split.value
    if count not in (0, len(files)):
        fault = f"{path.name} is one of {count} files, which its name does not say"
        raise CorruptInput(fault, "keep the names that it came with")
    tensors, places = dict(whole.tensors), dict.fromkeys(whole.tensors, files[0])
    for file in files[1:]:
        part = parse(file)
        if twice := tensors.keys() & part.tensors.keys():
            raise CorruptInput(f"{file.name} repeats the tensor {min(twice)!r} of another part", "download them again")
        tensors.update(part.tensors)
        places.update(dict.fromkeys(part.tensors, file))
    return dataclasses.replace(whole, tensors=tensors, shards=places)


def _info(cursor: _Cursor) -> tuple[str, Place]:
    name = cursor.text(MOST_NAME)
    axes = cursor.number("I")
    if not 1 <= axes <= MOST_AXES:
        raise CorruptInput(f"{cursor.name}: tensor {name!r} has {axes} axes")
    shape = tuple(reversed([cursor.number("Q") for _ in range(axes)]))
    number = cursor.number("I")
    if number not in KINDS:
        raise Unsupported(
            f"{cursor.name}: tensor {name!r} has the ggml type {number}",
            "types that slmops reads: " + ", ".join(kind.name for kind in KINDS.values()),
        )
    kind = KINDS[number]
    if any(not 0 < axis < 1 << 40 for axis in shape) or shape[-1] % kind.elements:
        raise CorruptInput(f"{cursor.name}: tensor {name!r} cannot be {list(shape)} in {kind.name}")
    return name, Place(kind, shape, cursor.number("Q"))


def _placed(file: str, infos: list[tuple[str, Place]], data: int, nbytes: int, alignment: int) -> dict[str, Place]:
    """Name -> place from the file's start; no tensor leaves the file or overlaps another."""
    tensors: dict[str, Place] = {}
    for name, place in infos:
        if name in tensors:
            raise CorruptInput(f"{file} holds the tensor {name!r} twice")
        if place.offset % alignment or data + place.offset + place.nbytes > nbytes:
            raise CorruptInput(f"{file}: tensor {name!r} lies outside the file", "it was cut short: download it again")
        tensors[name] = place._replace(offset=data + place.offset)
    last = 0
    for name, place in sorted(tensors.items(), key=lambda item: item[1].offset):
        if place.offset < last:
            raise CorruptInput(f"{file}: tensor {name!r} overlaps another")
        last = place.offset + place.nbytes
    return tensors
