"""The same GGUF file with every tensor as numbers.

llama.cpp quantizes activations wherever weights are codes, so only in such a twin do its logits show that names, metadata
and graph are right.
"""

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path

import numpy as np

from slmops.core.tensor import row_blocks
from slmops.formats import _gguf_container as container
from slmops.formats import _gguf_tensors


def write(path: Path, file: Path) -> Path:
    """The f32 numbers that the codes of a file stand for, in row blocks; `file` again, whose folder is made.

    Metadata is copied byte for byte (general.file_type too, which is only a hint).
    """
    source = container.parse(path)
    single = container.BY_NAME["F32"]
    wanted = {key: (single, place.shape) for key, place in source.tensors.items()}
    head, places, total = container.header(source.entries, len(source.metadata), wanted, source.alignment)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(head)
        out.truncate(total)

    def expand(key: str, start: int, stop: int) -> None:
        place = source.tensors[key]
        values = np.ascontiguousarray(_gguf_tensors.tensor(key, source.path, place, None).rows(start, stop), dtype="<f4")
        with file.open("r+b") as out:
            out.seek(places[key].offset + start * places[key].nbytes // place.shape[0])
            out.write(values.reshape(-1).view(np.uint8))

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        jobs = [pool.submit(expand, key, *rows) for key, place in source.tensors.items() for rows in row_blocks(place.shape)]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return file
