"""Recorded histories of other programs as events: CSV, JSONL, trainer_state.json, lists and tables of JSON, text logs, TensorBoard.

A row becomes a step event with what was logged in training, an eval event with what an evaluation gave, or both, in this order. What
the columns mean is told by `trainbus.sources.names`. Time stands still unless the file tells it: rules about time
stay silent then.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.sources.patterns import MAX_LINE
from trainbus.sources.tables import as_number, from_rows
from trainbus.sources.tensorboard import read_folder

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Endings of files that a folder is searched for."""
TEXTS = (".log", ".txt", ".out")
"""Endings of what a program has printed: read when it is named."""
NUMBER: Final = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
PAIR: Final = re.compile(
    rf"([A-Za-z_][\w/.\-]*(?: (?:loss|norm|rate))?)[\"']?\s*[:=]?\s*[\"']?({NUMBER})(?![\w.]*[A-Za-z_]\w*[:=])", re.IGNORECASE
)


def read(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[events.AnyEvent]:
    """The events of a file or TensorBoard folder, by what it looks like.

    Args:
        path: Of the file or folder.
        columns: Which column is what, where its name does not tell: ``{"loss": "my column"}``.

    Raises:
        DataError: It can't be read, or is none of these.
    """
    if path.is_dir():
        if (path / "trainer_state.json").is_file():
            return read(path / "trainer_state.json", columns)
        return read_folder(path, columns)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist.", hint="Name a CSV, JSONL or trainer_state.json file, or a TensorBoard folder.", file=str(path)
        )
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, **dict.fromkeys(TEXTS, _text)}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        hint = f"The name must end in one of {', '.join(readers)}, or be a TensorBoard folder."
        raise DataError(f"{path}: {path.suffix or 'no ending'} is no known format.", hint=hint, file=str(path))
    return reader(path, columns)


def _csv(path: Path, columns: Mapping[str, str] | None) -> Iterator[events.AnyEvent]:
    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            lines = (line for line in stream if line.strip() and not line.startswith("#"))
            header = next(lines, "")
            if not header:
                raise DataError(f"{path} is empty.", hint="The first line must name the columns.", file=str(path), line=1)
            delimiter = max(",;\t|", key=header.count)
            if header.count(delimiter) == 0 and len(header.split()) > 1:
                delimiter = " "
            table = csv.reader(chain([header], lines), delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(table)]
            if "kind" in names and "offset" in names:
                raise DataError(f"{path} is an export of events.", hint="Export the run as JSONL for a backtest.", file=str(path))
            if all(isinstance(as_number(name), float) for name in names if name):
                hint = "The first line must name the columns, e.g. step,loss."
                raise DataError(f"{path}: the first line holds numbers and no names.", hint=hint, file=str(path), line=1)
            for line in table:
                cells = (cell.replace(",", ".") for cell in line) if delimiter == ";" else line
                yield {name: cell for name, cell in zip(names, cells, strict=False) if cell and name}

    def readable() -> Iterator[dict[str, Any]]:
        try:
            yield from rows()
        except csv.Error as error:
            raise DataError(f"{path} is no table: {error}.", hint="Is a quotation mark left open?", file=str(path)) from error

    return from_rows(_melted(readable(), path), path.stem, columns)


def _melted(rows: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """Tables with one value a line: the name is in a column, or (a curve that TensorBoard has exported) in that of the file."""
    for row in rows:
        value = next((name for name in row if name.lower() == "value"), None)
        if value is not None:
            label = next((name for name in row if name.lower() in ("metric", "tag", "name", "key")), None)
            tag = row.pop(label) if label else path.stem.rpartition("tag-")[2] or "loss"
            row[str(tag)] = row.pop(value)
        yield row


def _jsonl(path: Path, columns: Mapping[str, str] | None) -> Iterator[events.AnyEvent]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty.", hint="Each line must be a JSON object.", file=str(path), line=1)
    if _kind_of(first) in events.BY_KIND and "source" in first:
        return (_exported(row, path) for row in chain([first], lines) if _kind_of(row) in events.BY_KIND)
    return from_rows(chain([first], lines), path.stem, columns)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        broken: tuple[int, str] | None = None
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            if broken is not None:
                raise _no_object(path, *broken)
            try:
                row = json.loads(line)
            except events.DECODE_ERRORS as error:
                if number == 1:
                    raise _no_object(path, number, f": {error}") from error
                broken = (number, f": {error}")  # the last line may have been torn by a kill
                continue
            if not isinstance(row, dict):
                raise _no_object(path, number, " is no JSON object")
            yield row


def _no_object(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number}{what}.", hint="Each line must be a JSON object.", file=str(path), line=number)


def _kind_of(row: dict[str, Any]) -> str:
    return kind if isinstance(kind := row.get("kind"), str) else ""


def _exported(row: dict[str, Any], path: Path) -> events.AnyEvent:
    try:
        return exported_event(row)
    except (KeyError, IndexError, TypeError, AttributeError, *events.DECODE_ERRORS) as error:
        hint = "Was the file changed by hand? `trainbus runs export` writes it anew."
        raise DataError(f"{path} holds an event that can't be read: {error}.", hint=hint, file=str(path)) from error


def exported_event(row: dict[str, Any]) -> events.AnyEvent:
    """An exported event: numbers that JSON can't hold come back from the flag beside them."""
    for place, name in row.pop("not_finite", {}).items():
        inner: Any = row
        *parents, last = place.split(".")
        for parent in parents:
            inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
        inner[int(last) if isinstance(inner, list) else last] = float(name)
    return msgspec.convert(row, events.BY_KIND[row["kind"]])


def _json(path: Path, columns: Mapping[str, str] | None) -> Iterator[events.AnyEvent]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except events.DECODE_ERRORS as error:
        raise DataError(f"{path} is no JSON: {error}.", hint="Name transformers' trainer_state.json.", file=str(path)) from error
    rows = _rows(content)
    if rows is None:
        hint = "Name transformers' trainer_state.json, a list of objects, or an object of lists of equal length."
        raise DataError(f"{path} has no log_history.", hint=hint, file=str(path), key="log_history")
    # The last entry sums the training up (train_runtime, train_loss): no step logged it.
    rows = [row for row in rows if "train_runtime" not in row]
    return from_rows(rows, path.parent.name if path.name == "trainer_state.json" else path.stem, columns)


def _rows(content: Any) -> list[dict[str, Any]] | None:
    """Rows of a list of objects, of an object that holds one, or of a table by columns."""
    if isinstance(content, dict):
        held = [value for value in content.values() if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)]
        content = content.get("log_history", held[0] if len(held) == 1 else content)
    if isinstance(content, list):
        return [row for row in content if isinstance(row, dict)]
    if not isinstance(content, dict):
        return None
    table = {name: list(column.values()) if isinstance(column, dict) else column for name, column in content.items()}
    if not table or not all(isinstance(column, list) for column in table.values()) or len({len(one) for one in table.values()}) != 1:
        return None
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def _text(path: Path, columns: Mapping[str, str] | None) -> Iterator[events.AnyEvent]:
    """What a program has printed: names with numbers, ``iter 10: loss 2.31`` or ``{'loss': 2.31}``. Other lines are left out."""

    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                row = {name.strip(): float(value) for name, value in PAIR.findall(line[:MAX_LINE])}
                if any("loss" in name.lower() for name in row):
                    yield row

    made = list(rows())
    if not made:
        raise DataError(f"{path} has no line with a loss.", hint="Lines must look like: step 10 loss 2.31 lr 1e-4.", file=str(path))
    return from_rows(made, path.stem, columns)
