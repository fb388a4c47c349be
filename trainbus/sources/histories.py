"""Recorded histories of other programs as events: CSV, JSONL, trainer_state.json, TensorBoard. What a row becomes is in `rows`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.sources.rows import from_rows
from trainbus.sources.tensorboard import read_folder

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Endings of files that can be read."""
BACK_TO = {"null": math.nan, "none": math.nan}


def read(path: Path) -> Iterator[events.AnyEvent]:
    """The events of a file or TensorBoard folder, by what it looks like.

    Raises:
        DataError: It can't be read, or is none of these.
    """
    if path.is_dir():
        if (path / "trainer_state.json").is_file():
            return read(path / "trainer_state.json")
        return read_folder(path)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist.", hint="Name a CSV, JSONL or trainer_state.json file, or a TensorBoard folder.", file=str(path)
        )
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        hint = f"The name must end in one of {', '.join(readers)}, or be a TensorBoard folder."
        raise DataError(f"{path}: {path.suffix or 'no ending'} is no known format.", hint=hint, file=str(path))
    return reader(path)


def _csv(path: Path) -> Iterator[events.AnyEvent]:
    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            header = next(lines, None)
            if not header:
                raise DataError(f"{path} is empty.", hint="The first line must name the columns.", file=str(path), line=1)
            names = [name.strip() for name in header]
            if "kind" in names and "offset" in names:
                raise DataError(f"{path} is an export of events.", hint="Export the run as JSONL for a backtest.", file=str(path))
            for line in lines:
                row: dict[str, Any] = {}
                for name, cell in zip(names, line, strict=False):
                    if cell:
                        try:
                            row[name] = float(cell)
                        except ValueError:
                            if cell.strip().lower() in BACK_TO:
                                row[name] = math.nan
                yield row

    return from_rows(rows(), path.stem)


def _jsonl(path: Path) -> Iterator[events.AnyEvent]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty.", hint="Each line must be a JSON object.", file=str(path), line=1)

    def rows() -> Iterator[dict[str, Any]]:
        yield first
        yield from lines

    if isinstance(first.get("kind"), str) and first["kind"] in events.BY_KIND:
        return (exported_event(row) for row in rows() if row.get("kind") in events.BY_KIND)
    return from_rows(rows(), path.stem)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                problem = f"{path}, line {number}: {error}."
                raise DataError(problem, hint="Each line must be a JSON object.", file=str(path), line=number) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} is no JSON object.", hint="Each line must be one.", file=str(path), line=number)
            yield row


def exported_event(row: dict[str, Any]) -> events.AnyEvent:
    """An exported event: numbers that JSON can't hold come back from the flag beside them."""
    for place, name in row.pop("not_finite", {}).items():
        inner: Any = row
        *parents, last = place.split(".")
        for parent in parents:
            inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
        inner[int(last) if isinstance(inner, list) else last] = float(name)
    return msgspec.convert(row, events.BY_KIND[row["kind"]])


def _json(path: Path) -> Iterator[events.AnyEvent]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}.", hint="Name transformers' trainer_state.json.", file=str(path)) from error
    rows = content.get("log_history") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        hint = "Name transformers' trainer_state.json, or a list of objects."
        raise DataError(f"{path} has no log_history.", hint=hint, file=str(path), key="log_history")
    # The last entry sums the training up (train_runtime, train_loss): no step logged it.
    rows = [row for row in rows if isinstance(row, dict) and "train_runtime" not in row]
    return from_rows(rows, path.parent.name if path.name == "trainer_state.json" else path.stem)
