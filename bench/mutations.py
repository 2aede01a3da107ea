"""Changes to small valid files, for fuzz.py: each takes a random source and a content, and gives another content."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 31, 32, 33, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
VALUES: tuple[Any, ...] = (*NUMBERS, -(1 << 63), 1e308, -0.5, 0.5, float("nan"), float("inf"), None, True, False, "", "x",
                           "F32", "../../etc/passwd", "\0", "é" * 50, [], {}, [1], {"a": 1}, [[]], "9" * 400)  # fmt: skip


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes overwritten, runs doubled, moved, cut out, or the end cut off."""
    if not data:
        return bytes([rng.randrange(256)])
    held, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        held[at] = rng.randrange(256)
    elif kind == 1:
        held[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
        held[at : at + width] = value.to_bytes(width, "little")
    elif kind == 3:
        run = bytes(held[at : at + rng.randrange(1, 64)])
        held[at:at] = run
    elif kind == 4:
        del held[at : at + rng.randrange(1, 64)]
    else:
        del held[at:]
    return bytes(held)


def _place(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """A (container, key) somewhere in a JSON value: down from the top, stopping anywhere."""
    found = None
    while value and isinstance(value, dict | list):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        found, value = (value, key), value[key]
        if rng.random() < 0.2:
            break
    return found


def of_json(rng: random.Random, value: Any) -> Any:
    """A value replaced, removed, doubled or renamed, in place."""
    place = _place(rng, value)
    if place is None:
        return rng.choice(VALUES)
    holder, key = place
    kind = rng.randrange(5)
    if kind <= 2:
        old = holder[key]
        if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.5:
            holder[key] = (
                old + rng.choice((-1, 1, 8, -8, 64)) if rng.random() < 0.5 else old * rng.choice((-1, 2, 3, 1 << 20))
            )
        else:
            holder[key] = rng.choice(VALUES)
    elif kind == 3:
        del holder[key]
    elif isinstance(holder, dict):
        other = str(rng.choice(list(holder)))
        if rng.random() < 0.5:  # "a.weight" and "b.scales" make "a.scales"
            other = f"{str(key).rpartition('.')[0]}.{other.rpartition('.')[2]}"
        holder[other] = holder[key]
    else:
        holder.insert(rng.randrange(len(holder) + 1), holder[key])
    return value


def json_file(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.1:
        return of_bytes(rng, data)
    try:
        value = json.loads(data)
    except ValueError:
        return of_bytes(rng, data)
    return json.dumps(of_json(rng, value)).encode()


def safetensors_file(rng: random.Random, data: bytes) -> bytes:
    """The header as JSON, the length before it, duplicate keys, or bytes."""
    kind = rng.randrange(8)
    if kind == 0 or len(data) < 8:
        return of_bytes(rng, data)
    (length,) = struct.unpack_from("<Q", data)
    if kind == 1:
        return struct.pack("<Q", rng.choice(NUMBERS) & ((1 << 64) - 1)) + data[8:]
    head, body = data[8 : 8 + length], data[8 + length :]
    if kind == 2:
        text = head.decode("utf-8", "replace").strip()
        entry = rng.choice(re.findall(r'"[^"]+":\{[^}]*\}', text) or [""])
        head = (text[:-1] + "," + entry + "}").encode()
    else:
        try:
            head = json.dumps(of_json(rng, json.loads(head))).encode()
        except ValueError:
            return of_bytes(rng, data)
    return struct.pack("<Q", len(head)) + head + body


def gguf_file(rng: random.Random, data: bytes) -> bytes:
    """A field of the header: found by walking it as the format says, in the file as it is now."""
    fields = _gguf_fields(data) if rng.random() < 0.85 else []
    if not fields:
        return of_bytes(rng, data)
    at, width = rng.choice(fields)
    held = bytearray(data)
    if rng.random() < 0.5 and width in (4, 8):
        value = int.from_bytes(held[at : at + width], "little") + rng.choice((-1, 1, 2, 8, 32, 1 << 16))
    else:
        value = rng.choice(NUMBERS)
    held[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(held)


_FIELDS: dict[int, list[tuple[int, int]]] = {}


def _gguf_fields(data: bytes) -> list[tuple[int, int]]:
    """(offset, width) of counts, lengths, types, values, dimensions and offsets, of the first file of this length: mutants
    of a length have their fields where it has them."""
    if len(data) not in _FIELDS:
        if len(_FIELDS) > 1000:
            _FIELDS.clear()
        _FIELDS[len(data)] = _walked(data)
    return _FIELDS[len(data)]


def _walked(data: bytes) -> list[tuple[int, int]]:
    """Gives up where the walk does not fit."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    found, at = [(0, 4), (4, 4), (8, 8), (16, 8)], 24

    def number(width: int) -> int:
        nonlocal at
        found.append((at, width))
        value = int.from_bytes(data[at : at + width], "little")
        at += width
        return value

    def text() -> None:
        nonlocal at
        length = number(8)
        found.append((at, 1))
        at += min(length, len(data))

    try:
        tensors, entries = struct.unpack_from("<QQ", data, 8)
        for _ in range(min(entries, 100)):
            text()
            kind = number(4)
            count = 1
            if kind == 9:
                kind, count = number(4), number(8)
            for _ in range(min(count, 4000)):
                if kind == 8:
                    text()
                else:
                    number(sizes[kind])
        for _ in range(min(tensors, 100)):
            text()
            for _ in range(min(number(4), 8)):
                number(8)
            number(4)
            number(8)
    except (struct.error, KeyError):
        pass
    return [place for place in found if place[0] + place[1] <= len(data)]


def onnx_file(rng: random.Random, data: bytes) -> bytes:
    """Initializers, their places, nodes and attributes through protobuf, or bytes."""
    import onnx

    if rng.random() < 0.3:
        return of_bytes(rng, data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return of_bytes(rng, data)
    try:
        _onnx_graph(rng, model.graph)
    except UnicodeDecodeError:  # names that are no UTF-8, which is told when one is looked at
        return of_bytes(rng, data)
    return bytes(model.SerializeToString())


def _onnx_graph(rng: random.Random, graph: Any) -> None:
    kind = rng.randrange(6)
    if kind <= 2 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        what = rng.randrange(4)
        if what == 0 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([n for n in NUMBERS if n < 1 << 63])
        elif what == 1:
            tensor.data_type = rng.choice((0, 1, 2, 3, 7, 10, 11, 16, 21, 99))
        elif what == 2 and tensor.external_data:
            entry = rng.choice(tensor.external_data)
            entry.value = str(rng.choice(VALUES))[:200]
        else:
            tensor.name = rng.choice(graph.initializer).name
    elif kind == 3 and graph.node:
        node = rng.choice(graph.node)
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", "x", rng.choice(graph.initializer).name))
    elif kind == 4 and graph.node:
        node = rng.choice(graph.node)
        if node.attribute:
            rng.choice(node.attribute).i = rng.choice([n for n in NUMBERS if n < 1 << 63])
    elif graph.node:
        at = rng.randrange(len(graph.node))
        if rng.random() < 0.5:
            del graph.node[at]
        else:
            graph.node.add().CopyFrom(graph.node[at])


def xml_file(rng: random.Random, data: bytes) -> bytes:
    """An attribute's value, a layer or an edge dropped or doubled, an entity, or bytes."""
    text = data.decode("utf-8", "replace")
    kind = rng.randrange(6)
    if kind == 0:
        return of_bytes(rng, data)
    if kind <= 3:
        place, other = _found(rng, _ATTRIBUTE, text), _found(rng, _ATTRIBUTE, text)
        if place is None or other is None:
            return of_bytes(rng, data)
        value = str(rng.choice(VALUES)) if rng.random() < 0.6 else other[1]
        value = value.replace("&", "").replace("<", "").replace('"', "").replace("\0", "")
        return (text[: place.start(1)] + value + text[place.end(1) :]).encode()
    place = _found(rng, _ELEMENT, text)
    if place is None:
        return of_bytes(rng, data)
    return (text[: place.start()] + place[0] * 2 * (kind == 5) + text[place.end() :]).encode()


_ATTRIBUTE = re.compile(r'\w+="([^"]*)"')
_ELEMENT = re.compile(r"<edge [^>]*/>|<dim>[^<]*</dim>|<port.*?</port>", re.DOTALL)


def _found(rng: random.Random, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The next one from somewhere in the text on."""
    return pattern.search(text, rng.randrange(len(text))) or pattern.search(text) if text else None


BY_ENDING: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".json": json_file, ".safetensors": safetensors_file, ".gguf": gguf_file, ".onnx": onnx_file, ".xml": xml_file,
}  # fmt: skip
