"""Reads an ONNX file without its weights: copies the message, with large raw data replaced by references to it."""

from __future__ import annotations

from typing import Final, Protocol

#: Raw data beyond this many bytes stays in the file. Shape constants (targets of Reshape, axes, pads) are far smaller.
KEPT_BYTES: Final = 4096

# Fields of onnx.proto that can hold tensors: message -> field number -> message. The rest is copied unseen.
_CHILDREN: Final = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # fields of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_MAX_DEPTH: Final = 100  # nesting of subgraphs, as protobuf itself bounds it


class MalformedMessage(ValueError):
    """The bytes are not a protobuf message, or end before it does."""


class Buffer(Protocol):
    """Bytes or a memory map."""

    def __getitem__(self, index: slice, /) -> bytes: ...
    def __len__(self) -> int: ...


def skeleton(buffer: Buffer, location: str) -> bytes:
    """The ModelProto in `buffer` with every raw_data above KEPT_BYTES made external data at its place in `location`.

    Only the skeleton is read, so a model with gigabytes of weights costs kilobytes. Raises MalformedMessage where the
    buffer is cut off or is not protobuf.
    """
    return b"".join(_copy(buffer, 0, len(buffer), "model", location, 0))


def _varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for byte in buffer[position : min(position + 10, end)]:
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise MalformedMessage(f"no end of the number at byte {position}")


def encode_varint(value: int) -> bytes:
    """A non-negative integer as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return encode_varint(number << 3 | _BYTES) + encode_varint(len(content)) + content


def _reference(location: str, offset: int, length: int) -> bytes:
    """The TensorProto fields that say where the data is."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    fields = [
        _field(_EXTERNAL_DATA, _field(1, key.encode()) + _field(2, value.encode())) for key, value in entries.items()
    ]
    return b"".join(fields) + encode_varint(_DATA_LOCATION << 3 | _VARINT) + b"\x01"


def _copy(buffer: Buffer, start: int, end: int, kind: str, location: str, depth: int) -> list[bytes]:
    """The fields of one message in [start, end), in pieces."""
    if depth > _MAX_DEPTH:
        raise MalformedMessage(f"messages nested deeper than {_MAX_DEPTH}")
    children = _CHILDREN.get(kind, {})
    pieces: list[bytes] = []
    position = kept_from = start
    while position < end:
        field_start = position
        key, position = _varint(buffer, position, end)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise MalformedMessage(f"no field has number 0 (byte {field_start})")
        if wire == _VARINT:
            _, position = _varint(buffer, position, end)
            continue
        if wire == _BYTES:
            length, position = _varint(buffer, position, end)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise MalformedMessage(f"unknown wire type {wire} at byte {field_start}")
        content, position = position, position + length
        if position > end:
            raise MalformedMessage(f"the field at byte {field_start} runs {position - end} bytes past the end")
        if wire != _BYTES or length <= KEPT_BYTES:
            continue
        if kind == "tensor" and number == _RAW_DATA:
            replacement = _reference(location, content, length)
        elif number in children:
            inner = b"".join(_copy(buffer, content, position, children[number], location, depth + 1))
            replacement = _field(number, inner)
        else:
            continue
        pieces += (buffer[kept_from:field_start], replacement)
        kept_from = position
    pieces.append(buffer[kept_from:end])
    return pieces
