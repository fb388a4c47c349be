"""Writes events to a file: JSONL, CSV or Parquet. Memory does not grow with the number of events.

JSONL has each event as every JSON edge writes it. CSV and Parquet have one row for each event and one column for each dotted path that
occurs (``metrics.loss``); lists are JSON text. Their columns must be known first, so the events are read twice.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import msgspec

from trainbus.bus.events import AnyEvent, Other
from trainbus.bus.jsonable import to_json, to_jsonable

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")
FIRST_COLUMNS = ("offset", "time", "kind", "run", "source", "seq", "step")

ROWS_AT_ONCE = 20_000
"""Rows of one Parquet row group: some ten MB of memory."""

Read: TypeAlias = Callable[[], Iterable[AnyEvent]]
"""Gives the events from the beginning, the same ones each time."""


def write(read: Read, file: Path, form: Format) -> int:
    """Write all events to ``file``, which appears whole or not at all.

    Returns:
        The number of events.

    Raises:
        OSError: The file can't be written.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    part = file.with_name(f".{file.name}.part")
    writers: dict[Format, Callable[[Read, Path], int]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
    try:
        count = writers[form](read, part)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return count


def write_lines(events: Iterable[AnyEvent], stream: IO[bytes]) -> int:
    """JSONL to a stream, e.g. stdout. Returns the number of events."""
    count = 0
    for event in events:
        stream.write(to_json(event) + b"\n")
        count += 1
    return count


def row(event: AnyEvent) -> dict[str, Any]:
    """An event as one flat row: numbers, booleans and texts by dotted path; NaN stays NaN, None is left out."""
    plain = {name: getattr(event, name) for name in event.__struct_fields__ if name != "fields"}
    if isinstance(event, Other):
        plain |= event.fields
    return {"kind": event.kind, **dict(_leaves(plain, ""))}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        if value:
            yield path, json.dumps(to_jsonable(list(value)), ensure_ascii=False)
    elif value is not None:
        yield path, value


def columns(events: Iterable[AnyEvent]) -> dict[str, type]:
    """Every column that occurs with the type that holds all its values: bool, int, float or str."""
    found: dict[str, type] = {}
    for event in events:
        for name, value in row(event).items():
            kind = type(value) if isinstance(value, bool | int | float) else str
            known = found.setdefault(name, kind)
            if known is not kind:
                found[name] = float if {known, kind} == {int, float} else str
    first = [name for name in FIRST_COLUMNS if name in found]
    return {name: found[name] for name in [*first, *sorted(found.keys() - set(first))]}


def _jsonl(read: Read, file: Path) -> int:
    with file.open("wb") as stream:
        return write_lines(read(), stream)


def _csv(read: Read, file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns(read())))
        writer.writeheader()
        for event in read():
            writer.writerow(row(event))
            count += 1
    return count


def _parquet(read: Read, file: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    kinds = columns(read())
    types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    count = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        events = iter(read())
        while some := [row(event) for event in islice(events, ROWS_AT_ONCE)]:
            data = {name: [_fit(one.get(name), kind) for one in some] for name, kind in kinds.items()}
            writer.write_table(pyarrow.table(data, schema=schema))
            count += len(some)
    return count


def _fit(value: Any, kind: type) -> Any:
    return value if value is None or type(value) is kind else kind(value)
