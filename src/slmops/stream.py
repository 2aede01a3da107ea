"""Execute layouts: one pass over the weights, every format written at once.

Threads take one (tensor, rows) block each: read it, let every format's regions encode it, write the bytes at their place.
A second thread pushes finished bytes to disk meanwhile, so that the last fsync has little left to do.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from slmops.core import roles
from slmops.core.errors import NoSpace
from slmops.core.layout import Layout, Region
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed, Scheme, stored_as
from slmops.core.store import no_space
from slmops.core.tensor import DTYPES, Array, Tensor, row_blocks
from slmops.quantize._cast import cast, check_finite
from slmops.quantize._recode import recode

Progress = Callable[[int], None]
"""Called with the bytes of weights that a block held."""

Digests = dict[str, dict[str, object]]
"""Role -> {"stored": scheme or dtype, "shape": [...], "crc": {form: [one CRC-32 a block]}}.

A form is a scheme or, for plain numbers, `plain`: the model's own, and each other that a format holds them in
(Layout.forms, Layout.unpacked).
"""

PLAIN = "plain"


class File:
    """A preallocated file that several threads write at their own offsets."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._lock = threading.Lock()
        os.truncate(self._handle, size)

    def write(self, offset: int, data: bytes | Array) -> None:
        view = (
            memoryview(data)
            if isinstance(data, bytes)
            else memoryview(np.ascontiguousarray(data).view(np.uint8).reshape(-1))
        )
        while len(view):
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._handle, view, offset)
            else:
                with self._lock:
                    os.lseek(self._handle, offset, os.SEEK_SET)
                    written = os.write(self._handle, view)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def blocks(tensor: Tensor, multiple: int) -> Iterator[tuple[int, int]]:
    """The block grid of a tensor: the same for writing, reading back and digests."""
    return row_blocks(tensor.shape, multiple if len(tensor.shape) > 1 else 1)


def digest(block: Codes | Array, offset: float = 0.0) -> int:
    """CRC-32 of a block's canonical bytes: codes, scales and zero points, or plain numbers as f32.

    offset: of norm weights (`offset_of`), which some formats keep with it added and some without.
    """
    if isinstance(block, Codes):
        return block.digest()
    numbers = cast(block, DTYPES["f32"])
    if offset:
        numbers = numbers + np.float32(offset)
    return zlib.crc32(np.ascontiguousarray(numbers).view(np.uint8))


def offset_of(model: Model, role: str) -> float:
    """What is added to this role's numbers before they multiply."""
    return model.spec.norm_offset if roles.is_norm(role) else 0.0


def form_of(tensor: Tensor) -> str:
    """The name under which a tensor's digests are kept."""
    return tensor.scheme.name if isinstance(tensor, Packed) else PLAIN


def pull(tensor: Tensor, start: int, stop: int) -> Codes | Array:
    """A block of a tensor: codes where it is packed, plain numbers where not."""
    return tensor.block(start, stop) if isinstance(tensor, Packed) else tensor.rows(start, stop)


def write(
    model: Model, layouts: Mapping[str, Layout], folders: Mapping[str, Path], progress: Progress = lambda _: None
) -> Digests:
    """Write every layout into its (existing, empty) folder. Raises NoSpace before the first byte when it cannot fit.

    All bytes are on disk when this returns. Any failure stops all threads and passes; the caller owns the folders.
    """
    for folder in folders.values():
        needed, free = sum(layout.nbytes for layout in layouts.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise NoSpace(
                f"{needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free on the disk of {folder.parent}",
                "free some space, ask for fewer formats, or choose another -o",
            )
    with contextlib.ExitStack() as stack:
        files: dict[tuple[str, str], File] = {}
        for name, layout in layouts.items():
            for file, size in layout.sizes.items():
                files[name, file] = opened = File(folders[name] / file, size)
                stack.callback(opened.close)
            for file, offset, data in layout.literals:
                files[name, file].write(offset, data)
            for file, content in layout.files.items():
                (folders[name] / file).parent.mkdir(exist_ok=True)
                (folders[name] / file).write_bytes(content)
        side = concurrent.futures.ThreadPoolExecutor(max_workers=2)
        stack.callback(side.shutdown, wait=True, cancel_futures=True)
        side_jobs = [side.submit(job, folders[name]) for name, layout in layouts.items() for job in layout.side_jobs]
        stack.enter_context(_flusher(list(files.values())))
        result = _stream(model, layouts, files, progress)
        for future in side_jobs:
            future.result()
    return result


def _stream(
    model: Model, layouts: Mapping[str, Layout], files: Mapping[tuple[str, str], File], progress: Progress
) -> Digests:
    targets: dict[str, list[tuple[File, Region, Scheme | None]]] = {
        role: [
            (files[name, region.file], region, layout.forms.get(role))
            for name, layout in layouts.items()
            for region in layout.regions.get(role, ())
        ]
        for role in model.tensors
    }
    unpacked = frozenset[str]().union(*(layout.unpacked for layout in layouts.values()))

    def task(role: str, start: int, stop: int) -> dict[str, int]:
        tensor = model.tensors[role]
        block = pull(tensor, start, stop)
        if not isinstance(block, Codes):
            check_finite(block, role, start)
        held: dict[str, Codes | Array] = {form_of(tensor): block}
        for file, region, form in targets[role]:
            if form is not None and form.name not in held:
                assert isinstance(tensor, Packed) and isinstance(block, Codes)
                held[form.name] = recode(block, tensor.scheme, form)
            data = region.encode(block if form is None else held[form.name])
            file.write(region.offset + start // region.unit_rows * region.unit_bytes, data)
        progress(block.codes.nbytes + block.scales.nbytes if isinstance(block, Codes) else block.nbytes)
        if role in unpacked:
            held[PLAIN] = tensor.rows(start, stop)
        # Forms that differ in their scales alone share their codes.
        words = {id(part.codes): part.codes for part in held.values() if isinstance(part, Codes)}
        known = {key: zlib.crc32(np.ascontiguousarray(codes)) for key, codes in words.items()}
        return {
            form: part.digest(known[id(part.codes)]) if isinstance(part, Codes) else digest(part, offset_of(model, role))
            for form, part in held.items()
        }

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        futures = {
            role: [pool.submit(task, role, *rows) for rows in blocks(tensor, model.spec.row_multiple)]
            for role, tensor in model.tensors.items()
        }
        concurrent.futures.wait(
            [future for group in futures.values() for future in group], return_when=concurrent.futures.FIRST_EXCEPTION
        )
        for group in futures.values():
            for future in group:
                if future.done() and not future.cancelled() and (error := future.exception()) is not None:
                    raise error
        result: Digests = {}
        for role, group in futures.items():
            found = [future.result() for future in group]
            tensor = model.tensors[role]
            crc = {form: [one[form] for one in found] for form in found[0]}
            result[role] = {"stored": stored_as(tensor), "shape": list(tensor.shape), "crc": crc}
        return result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _flusher(files: list[File]) -> Iterator[None]:
    """Push written bytes to disk while others are computed; on a clean end, everything is on disk."""
    stop = threading.Event()
    failed: list[OSError] = []

    def work() -> None:
        while not stop.wait(0.2):
            for file in files:
                if stop.is_set():
                    return
                try:
                    file.sync()
                except OSError as error:
                    failed.append(error)
                    return

    thread = threading.Thread(target=work, name="flusher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    with no_space(files[0].path if files else Path()):
        if failed:
            raise failed[0]
        for file in files:
            file.sync()
