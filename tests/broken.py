"""Ways to break a proven artifact behind its back: bytes of the file are changed, its size and its receipt are not.

Where tensors lie is read here from the file itself, by the formats' own specifications, with nothing of slmops.
"""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np

Span = tuple[int, int]
Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Halves = np.ndarray[tuple[int, ...], np.dtype[np.float16]]
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 30: (1, 2)}
"""GGUF's types: elements and bytes of a block (f32, f16, Q4_0, Q8_0, bf16)."""


def gguf_tensors(data: bytes) -> dict[str, Span]:
    """Name -> (offset, bytes), after docs/gguf.md of ggml."""
    place = 4

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize("<" + form)
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("Q")
        place += length
        return data[place - length : place].decode()

    def skip(kind: int) -> None:
        nonlocal place
        if kind == 8:
            text()
        elif kind == 9:
            item, count = take("I"), take("Q")
            for _ in range(count):
                skip(item)
        else:
            place += SIZES[kind]

    assert data[:4] == b"GGUF" and take("I") == 3
    count, keys = take("Q"), take("Q")
    alignment = 32
    for _ in range(keys):
        name, kind = text(), take("I")
        if name == "general.alignment":
            alignment = struct.unpack_from("<I", data, place)[0]
        skip(kind)
    found = {}
    for _ in range(count):
        name = text()
        elements = int(np.prod([take("Q") for _ in range(take("I"))]))
        block, size = BLOCKS[take("I")]
        found[name] = (take("Q"), elements // block * size)
    start = -(-place // alignment) * alignment
    return {name: (start + offset, size) for name, (offset, size) in found.items()}


class Parts:
    """The bytes of a file with the place of each of its tensors."""

    def __init__(self, path: Path, spans: Callable[[bytes], dict[str, Span]]) -> None:
        self.path, self.data = path, np.fromfile(path, np.uint8)
        self.spans = spans(self.data.tobytes())

    def view(self, name: str) -> Bytes:
        start, size = self.spans[name]
        return self.data[start : start + size]

    def swap(self, one: str, other: str) -> None:
        """Every tensor whose name begins with `one` for its twin, where the two are of one size."""
        pairs = [(name, other + name.removeprefix(one)) for name in self.spans if name.startswith(one)]
        pairs = [(a, b) for a, b in pairs if b in self.spans and self.spans[a][1] == self.spans[b][1]]
        assert len(pairs) > 8
        for a, b in pairs:
            first = self.view(a).copy()
            self.view(a)[:] = self.view(b)
            self.view(b)[:] = first

    def save(self) -> None:
        self.data.tofile(self.path)


def openvino_constants(xml: Path) -> dict[str, Span]:
    """Name -> (offset, bytes) of every constant of an IR."""
    layers = ElementTree.parse(xml).iter("layer")
    found = [(one.get("name", ""), one.find("data")) for one in layers if one.get("type") == "Const"]
    return {name: (int(data.attrib["offset"]), int(data.attrib["size"])) for name, data in found if data is not None}


def opened(folder: Path, form: str) -> Parts:
    if form == "gguf":
        return Parts(folder / "model.gguf", gguf_tensors)
    return Parts(folder / "openvino_model.bin", lambda _: openvino_constants(folder / "openvino_model.xml"))


def scales(parts: Parts, name: str, form: str) -> Halves:
    """A view of a 4-bit matrix's scales (f16): in GGUF's Q4_0 each before its 16 bytes of codes, in an IR beside them."""
    if form == "gguf":
        return parts.view(name).reshape(-1, 18)[:, :2].view(np.float16)[:, 0]
    return parts.view(name + "/scale").view(np.float16)


NAMES = {
    "gguf": {
        "layer": "blk.{}.",
        "embedding": "token_embd.weight",
        "matrix": "blk.1.ffn_down.weight",
        "norm": "_norm.weight",
    },
    "openvino": {
        "layer": "model.layers.{}.",
        "embedding": "model.embed_tokens.weight",
        "matrix": "model.layers.1.mlp.down_proj.weight",
        "norm": "norm.weight",
    },
}


def swapped_layers(folder: Path, form: str) -> None:
    parts, layer = opened(folder, form), NAMES[form]["layer"]
    parts.swap(layer.format(0), layer.format(2))
    parts.save()


def shifted_scales(folder: Path, form: str) -> None:
    """Each group of one matrix with the scale of the group before it, as of an offset that is off by one."""
    parts = opened(folder, form)
    values = scales(parts, NAMES[form]["matrix"], form)
    values[:] = np.roll(values, 1)
    parts.save()


def larger_scales(folder: Path, form: str) -> None:
    """The scales of one matrix times 1.1, as of another range."""
    parts = opened(folder, form)
    values = scales(parts, NAMES[form]["matrix"], form)
    values[:] = (values.astype(np.float32) * 1.1).astype(np.float16)
    parts.save()


def lost_norms(folder: Path, form: str) -> None:
    """All ones, as of a writer that left them out."""
    parts = opened(folder, form)
    for name in parts.spans:
        if name.endswith(NAMES[form]["norm"]):
            parts.view(name).view(np.float32)[:] = 1
    parts.save()


def lost_row(folder: Path, form: str, row: int, rows: int) -> None:
    """No scales for one row of the vocabulary."""
    parts = opened(folder, form)
    scales(parts, NAMES[form]["embedding"], form).reshape(rows, -1)[row] = 0
    parts.save()


def wrong_template(folder: Path, form: str) -> None:
    """The marks of no family, in what the engine and in what slmops renders with; no byte more or less in the file."""
    receipt = json.loads((folder / "slmops.json").read_text(encoding="utf-8"))
    known: str = receipt["chat_template"]
    wrong = known.replace("<|im_start|>", "[INSTRUCT:] ").replace("<|im_end|>", "[/INSTRUC]")
    assert len(wrong) == len(known) != 0 and wrong != known
    receipt["chat_template"] = wrong
    (folder / "slmops.json").write_text(json.dumps(receipt), encoding="utf-8")
    path = folder / {"gguf": "model.gguf", "openvino": "openvino_tokenizer.xml"}[form]
    before, after = known, wrong
    if form == "openvino":
        # Two of the brackets as references, so that the lengths are the same: three times 4 for 1, and 5 and 6 for 1.
        before, after = known.replace("<", "&lt;"), wrong.replace("[", "&#91;", 1).replace("[", "&#091;", 1)
    assert len(before) == len(after)
    data = path.read_bytes()
    assert before.encode() in data
    path.write_bytes(data.replace(before.encode(), after.encode()))
