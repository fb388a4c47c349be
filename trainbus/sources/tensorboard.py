"""Scalars of a TensorBoard folder, without TensorBoard: the event files are records of a simple Protocol Buffer.

A record is ``length (8 bytes) · checksum (4) · body · checksum (4)``, little endian. Of the body three fields matter: 1 wall time, 2 step,
5 summary; of a summary's values the tag, the simple value, and a tensor with one number, which is how newer writers say it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.sources.names import EVALUATION, WITHIN, is_evaluation, plain
from trainbus.sources.tables import from_rows

PATTERN = "*tfevents*"
MAX_RECORD = 64 * 1024 * 1024
"""Bytes; a scalar takes fifty. More is a file of something else."""
FLOAT, DOUBLE = 1, 2
VARINT, LENGTH = 0, 2
FIXED = {1: 8, 5: 4}
"""Bytes by wire type."""


def read_folder(folder: Path, columns: Mapping[str, str] | None = None) -> Iterator[events.AnyEvent]:
    """The scalars of all event files of a folder in order of step. Those below a folder ``validation`` (Keras) are of an evaluation.

    Raises:
        DataError: There is none, or one is no event file.
    """
    files = sorted(folder.rglob(PATTERN))
    if not files:
        hint = "A TensorBoard folder holds files named events.out.tfevents.*"
        raise DataError(f"{folder} holds no TensorBoard events.", hint=hint, file=str(folder))
    rows: dict[tuple[int, bool], dict[str, Any]] = {}
    for file in files:
        evaluation = not EVALUATION.isdisjoint(file.relative_to(folder).parts[:-1])
        for step, time, tag, value in _scalars(file):
            name = f"eval/{tag}" if evaluation and not WITHIN.match(plain(tag)) else tag
            # An evaluation is told minutes after its step: as one row, the step would seem to have taken them.
            row = rows.setdefault((step, is_evaluation(name)), {"step": step, "time": time})
            row[name] = value
            row["time"] = max(row["time"], time)
    return from_rows((rows[key] for key in sorted(rows)), folder.name, columns)


def _scalars(file: Path) -> Iterator[tuple[int, float, str, float]]:
    with file.open("rb") as stream:
        for body, _ in records(stream, file):
            yield from scalars(body, file)


def scalars(body: bytes, file: Path) -> Iterator[tuple[int, float, str, float]]:
    """Step, time, tag and value of each scalar of a record.

    Raises:
        DataError: The record is none of TensorBoard's.
    """
    time, step, summaries = 0.0, 0, []
    for number, value in _fields(body, file):
        if number == 1 and isinstance(value, bytes) and len(value) == 8:
            time = struct.unpack("<d", value)[0]
        elif number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary, file):
            if number == 1 and isinstance(value, bytes):
                found = _value(value, file)
                if found is not None:
                    yield step, time, *found


def _value(body: bytes, file: Path) -> tuple[str, float] | None:
    tag, number = "", None
    for field, value in _fields(body, file):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif field == 2 and isinstance(value, bytes) and len(value) == 4:
            number = float(struct.unpack("<f", value)[0])
        elif field == 8 and isinstance(value, bytes):
            number = _tensor(value, file)
    return (tag, number) if tag and number is not None else None


def _tensor(body: bytes, file: Path) -> float | None:
    kind = 0
    content = b""
    for field, value in _fields(body, file):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field in (4, 5, 6) and isinstance(value, bytes):
            content = value
    size, form = (4, "<f") if kind == FLOAT else (8, "<d") if kind == DOUBLE else (0, "")
    return float(struct.unpack(form, content)[0]) if size and len(content) == size else None


def records(stream: BinaryIO, file: Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Each whole record from the byte ``start`` on, with the byte at which the next one begins. A half one at the end is left.

    Raises:
        DataError: It is no event file.
    """
    stream.seek(start)
    while len(head := stream.read(12)) == 12:
        (length,) = struct.unpack("<Q", head[:8])
        if length > MAX_RECORD:
            raise DataError(f"{file} is no TensorBoard event file.", hint="Its first record is too long to be one.", file=str(file))
        body = stream.read(length + 4)
        if len(body) < length + 4:
            return  # the writer died in the middle of this record, or is still at it
        start += 12 + length + 4
        yield body[:-4], start


def _fields(body: bytes, file: Path) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a Protocol Buffer message: numbers as int, fixed and nested ones as bytes."""
    place = 0
    while place < len(body):
        try:
            key, place = _varint(body, place)
            value, place = _content(body, place, key & 7)
        except (IndexError, KeyError) as error:
            raise DataError(f"{file} holds a record that can't be read.", hint="Is it a TensorBoard event file?", file=str(file)) from error
        yield key >> 3, value


def _content(body: bytes, place: int, form: int) -> tuple[int | bytes, int]:
    """One field's value by its wire type, and where the next one begins. An unknown type raises KeyError, a cut one IndexError."""
    if form == VARINT:
        return _varint(body, place)
    if form == LENGTH:
        size, place = _varint(body, place)
    else:
        size = FIXED[form]
    if place + size > len(body):
        raise IndexError("a field that ends behind its record")
    return body[place : place + size], place + size


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place
