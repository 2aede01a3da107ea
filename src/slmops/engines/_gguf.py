"""What the engines that open GGUF read from the file themselves: where it is, and entries that no engine hands out."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from slmops.core.errors import EngineFailed

KV = {"auto": 2.0, "f32": 4.0, "f16": 2.0, "q8": 34 / 32}
"""llama.cpp's precisions of the KV cache, see engines: q8 is Q8_0, 32 codes with a scale of 16 bits."""
TYPES = {"f32": "f32", "f16": "f16", "q8": "q8_0"}
"""What llama.cpp calls them."""

STRING, ARRAY, INT32, BOOL = 8, 9, 5, 7
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
HIDDEN = (2, 3)
"""Token types that llama.cpp leaves out of texts: unknown and control."""
NORMALIZER = "slmops.normalizer"
"""Entry of slmops: what the source's tokenizer does to a text first, and llama.cpp does not."""


def locate(folder: Path) -> Path:
    """The folder's only GGUF file; of a model in several, the first, from which llama.cpp finds the others."""
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() else [folder]
    if files and files[0].name.endswith(f"-00001-of-{len(files):05}.gguf"):
        files = files[:1]
    if len(files) != 1 or not files[0].is_file():
        raise EngineFailed(f"{folder} holds {len(files)} .gguf files, and one is needed", "give an artifact's folder")
    return files[0]


def compose(text: str, normalizer: str | None) -> str:
    """The text as the source's tokenizer would see it; only NFC occurs in files of slmops."""
    return unicodedata.normalize("NFC", text) if normalizer == "NFC" else text


def entries(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """(key, the metadata entry's own bytes) of a GGUF file; layout in docs/gguf.md of github.com/ggml-org/ggml."""

    def number(code: str) -> int:
        return int(struct.unpack("<" + code, file.read(struct.calcsize(code)))[0])

    def skip(kind: int) -> None:
        if kind == STRING:
            length = number("Q")
            file.seek(length, 1)
        elif kind == ARRAY:
            of, count = number("I"), number("Q")
            if of in SIZES:
                file.seek(SIZES[of] * count, 1)
            else:
                for _ in range(count):
                    skip(of)
        else:
            file.seek(SIZES[kind], 1)

    file.seek(16)
    for _ in range(number("Q")):
        start = file.tell()
        key = file.read(number("Q")).decode()
        skip(number("I"))
        end = file.tell()
        file.seek(start)
        yield key, file.read(end - start)


def selected(file: Path, prefix: str) -> dict[str, bytes]:
    """Entries whose key begins with `prefix`. Raises EngineFailed on a file that is no GGUF."""
    try:
        with file.open("rb") as opened:
            return {key: data for key, data in entries(opened) if key.startswith(prefix)}
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError, OSError, MemoryError, RecursionError) as error:
        raise EngineFailed(f"{file.name} has no readable metadata: {error!r}"[:300], "convert the model again") from None


def number(file: Path, key: str) -> int | None:
    """A u32 entry, found without reading past it; None where there is none, or no GGUF."""
    try:
        with file.open("rb") as opened:
            data = next(data for name, data in entries(opened) if name == key)
        return int(struct.unpack("<I", data[12 + len(key.encode()) :])[0])
    except (struct.error, KeyError, StopIteration, UnicodeDecodeError, OverflowError, OSError, MemoryError, RecursionError):
        return None


def body(found: Mapping[str, bytes], key: str) -> bytes:
    """The value's bytes of an entry, b"" where there is none."""
    data = found.get(key, b"")
    return data[12 + len(key.encode()) :]


def text(found: Mapping[str, bytes], key: str) -> str | None:
    """A string entry."""
    value = body(found, key)
    return value[8:].decode("utf-8", "replace") if value else None


def flag(found: Mapping[str, bytes], key: str) -> bool:
    """A boolean entry, False where there is none."""
    return body(found, key) == b"\1"
