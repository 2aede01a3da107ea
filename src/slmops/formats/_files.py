"""Small files of a checkpoint folder, read as if someone hostile had written them: inside the folder, bounded."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput, SourceNotFound

LIMIT = 4 << 20
"""Bytes of a configuration file; the real ones have a few thousand."""


def inside(folder: Path, name: str) -> Path:
    """The file `name` of the folder, its links followed; raises where it leads out of the checkpoint.

    Hugging Face's cache keeps `models--org--name/snapshots/<revision>/file -> ../../blobs/<digest>`, and since 2026 that
    blob may be a link on into a store that all repositories share (huggingface_hub/utils/_shared_blobs.py): links that
    stay within these two are its own.
    """
    path = folder / name
    with contextlib.suppress(OSError, ValueError):
        if path.name == name and stat.S_ISREG(path.lstat().st_mode):
            return path  # no link, and right in the folder: nothing to follow, component by component
    try:
        real = Path(os.path.realpath(path, strict=True))
    except FileNotFoundError:
        if path.is_symlink():
            raise CorruptInput(f"{name} is a link to a file that is gone", "download it again") from None
        raise SourceNotFound(f"{folder} has no {name}", "download the checkpoint again, all of it") from None
    except (OSError, ValueError) as error:  # a circle of links, a name with a zero byte
        raise CorruptInput(f"{name} in {folder} leads nowhere ({error})", "download it again") from None
    if not any(real.is_relative_to(place) for place in _roots(Path(os.path.realpath(folder)))):
        raise CorruptInput(f"{name} is a link out of {folder}", "copy the file into the folder instead of linking it")
    if not real.is_file():
        raise CorruptInput(f"{name} in {folder} is not a file")
    return path


def _roots(folder: Path) -> Iterator[Path]:
    yield folder
    if folder.parent.name == "snapshots" and (blobs := folder.parent.parent / "blobs").is_dir():
        yield blobs
        shared = folder.parent.parent.parent / "blobs"
        if (shared / ".huggingface-shared-blobs").is_file():
            yield shared


def there(folder: Path, name: str) -> bool:
    """Whether the folder has an entry of this name, be it a dangling link."""
    return os.path.lexists(folder / name)


def content(folder: Path, name: str, limit: int = LIMIT) -> bytes:
    """The bytes of one file; CorruptInput past `limit`."""
    with inside(folder, name).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CorruptInput(f"{name} has {size:,} bytes; none of its kind has more than {limit:,}")
        return file.read(size)  # read() makes room for all that it is asked for, and limits are up to 128 MB


class Twice(ValueError):
    """A name stands twice in an object: one parser takes the first, another the last."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads. Raises Twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Twice("a name stands twice")
    return result


def parse_json(text: bytes, name: str, once: bool = False) -> dict[str, Any]:
    """A JSON object, or CorruptInput. once: no name may stand twice in an object."""
    try:
        value = json.loads(text, object_pairs_hook=unique if once else None)
    except RecursionError:
        raise CorruptInput(f"{name} is nested too deeply to be read") from None
    except Twice as error:
        raise CorruptInput(f"{name}: {error} in an object", "leave one out: readers differ in which they take") from None
    except ValueError as error:  # bad JSON, bad UTF-8, numbers of a million digits
        raise CorruptInput(f"{name} is not JSON: {str(error)[:200]}", "download it again") from None
    if not isinstance(value, dict):
        raise CorruptInput(f"{name} holds {type(value).__name__}, not an object")
    return value


def read_json(folder: Path, name: str, limit: int = LIMIT) -> dict[str, Any]:
    return parse_json(content(folder, name, limit), name)
