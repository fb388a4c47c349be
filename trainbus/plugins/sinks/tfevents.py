"""TensorBoard's event files, written without TensorBoard: records of a simple Protocol Buffer. `trainbus.sources.tensorboard` reads them.

A record is ``length (8 bytes) · checksum (4) · body · checksum (4)``, little endian; the checksum is a masked CRC-32C.
"""

from __future__ import annotations

import struct

VERSION = "brain.Event:2"
STRING = 7
"""DT_STRING."""
_DOUBLE, _BYTES, _FLOAT, _VARINT = 1, 2, 5, 0


def _table() -> tuple[int, ...]:
    made = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        made.append(value)
    return tuple(made)


_TABLE = _table()


def crc32c(content: bytes) -> int:
    """The checksum of Castagnoli."""
    value = 0xFFFFFFFF
    for byte in content:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _masked(content: bytes) -> bytes:
    value = crc32c(content)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def record(body: bytes) -> bytes:
    """A body with its length and checksums."""
    head = struct.pack("<Q", len(body))
    return head + _masked(head) + body + _masked(body)


def version(time: float) -> bytes:
    """The record that a file begins with."""
    return record(_field(1, _DOUBLE, struct.pack("<d", time)) + _text(3, VERSION))


def scalars(time: float, step: int, values: list[tuple[str, float]]) -> bytes:
    """A record with scalars of one step. Times are seconds since the epoch; values are single precision, as TensorBoard has them."""
    summary = b"".join(_bytes(1, _text(1, tag) + _field(2, _FLOAT, _single(value))) for tag, value in values)
    return record(_event(time, step) + _bytes(5, summary))


def text(time: float, step: int, tag: str, content: str) -> bytes:
    """A record with a text (markdown)."""
    metadata = _bytes(1, _text(1, "text"))
    tensor = _number(1, STRING) + _bytes(2, _bytes(2, _number(1, 1))) + _text(8, content)
    return record(_event(time, step) + _bytes(5, _bytes(1, _text(1, tag) + _bytes(9, metadata) + _bytes(8, tensor))))


def _event(time: float, step: int) -> bytes:
    return _field(1, _DOUBLE, struct.pack("<d", time)) + _number(2, step)


def _single(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # finite, but not in single precision
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode("utf-8", "replace"))


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _field(number: int, form: int, value: bytes) -> bytes:
    return _varint(number << 3 | form) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
