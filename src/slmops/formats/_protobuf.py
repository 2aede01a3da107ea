"""What a protobuf message will take in memory, estimated before it is parsed: two bytes of a file can become two hundred."""

from __future__ import annotations

from typing import Any

from slmops.core.errors import CorruptInput

SMALL = 1 << 19
"""Bytes of a message that cannot take much, whatever it holds."""
MOST = 64 << 20
"""Bytes of memory that a graph may take. A decoder of 28 layers takes 2 to 4 MB."""
MESSAGE, SCALAR, TEXT, PACKED = 205, 24, 40, 8
"""Bytes of memory for a nested message, a number, a text (and its length), and a byte of packed numbers: measured with
protobuf 7 (upb), the worst of onnx's kinds."""


def bounded(content: bytes, kind: Any, name: str) -> None:
    """Walk the wire format by the message's descriptor. CorruptInput where it would take more than MOST bytes.

    Says nothing of messages that are malformed: the parser finds those. Source: protobuf.dev, Encoding.
    """
    if len(content) <= SMALL:
        return
    cost, open_ends = 0, [(0, len(content), kind)]
    while open_ends:
        at, end, descriptor = open_ends.pop()
        fields = descriptor.fields_by_number
        while at < end:
            if cost > MOST:
                raise CorruptInput(f"{name} would take more than {MOST >> 20} MB of memory, which no graph of a model does")
            tag, at = _number(content, at, end)
            wire, field = tag & 7, fields.get(tag >> 3)
            if wire == 0:
                _, at = _number(content, at, end)
                cost += SCALAR
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
                cost += SCALAR
            elif wire == 2:
                length, at = _number(content, at, end)
                if at + length > end:
                    return
                if field is not None and field.message_type is not None:
                    cost += MESSAGE
                    if length:
                        open_ends.append((at, at + length, field.message_type))
                elif field is None or field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                    cost += TEXT + length
                else:
                    cost += PACKED * length
                at += length
            else:
                return


def _number(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint and the place after it; past the end, zero and the end."""
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, end
