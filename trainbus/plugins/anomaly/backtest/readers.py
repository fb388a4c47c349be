"""Recorded histories of other programs as events: CSV, JSONL, trainer_state.json, lists and tables of JSON, text logs, TensorBoard.

A row becomes a step event with what was logged in training, an eval event with what an evaluation gave, or both, in this order. What
the columns mean is told by `trainbus.plugins.anomaly.backtest.names`. Time stands still unless the file tells it: rules about time
stay silent then.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.plugins.anomaly.backtest.names import EPOCHS, EVALUATION, STEPS, TIMES, Column, meanings

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Endings of files that a folder is searched for."""
TEXTS = (".log", ".txt", ".out")
"""Endings of what a program has printed: read when it is named."""
WRAPPERS: Final = frozenset({"metrics", "logs", "log", "scalars", "data", "values", "stats"})
"""Names of nested objects that say nothing."""
SETTINGS: Final = frozenset({"config", "args", "hparams", "hyperparameters", "params", "cfg", "meta", "system", "versions", "env"})
"""Names of nested objects whose numbers are settings."""
FILLED = 0.5
"""A column of which more than this part is NaN, and which comes back from NaN `COMES_BACK` times, has NaN for "not logged"."""
COMES_BACK = 3
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
        from trainbus.plugins.anomaly.backtest.tensorboard import read_folder  # which needs `from_rows`

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


def from_rows(rows: Iterable[dict[str, Any]], run: str, columns: Mapping[str, str] | None = None) -> Iterator[events.AnyEvent]:
    """Rows of names and numbers as events. A row without a step gets the number of the row.

    Args:
        rows: In order.
        run: What the run is called.
        columns: As of `read`.

    Raises:
        DataError: A column that was chosen is not there.
    """
    flat = [_flat(row) for row in rows]
    names = dict.fromkeys(chain.from_iterable(flat))
    for meaning, column in (columns or {}).items():
        if column not in names:
            hint = f"It has: {', '.join(names)}."
            raise DataError(f"{run} has no column {column!r} for {meaning}.", hint=hint, key=meaning, found=column)
    known = meanings(names, columns)
    filled = _filled(flat, [name for name, column in known.items() if column.role in ("train", "eval")])
    for number, row in enumerate(flat):
        yield from _events(number, row, known, filled, run)


def _events(number: int, row: dict[str, Any], known: Mapping[str, Column], filled: set[str], run: str) -> Iterator[events.AnyEvent]:
    places: dict[str, dict[str, float]] = {"step": {}, "epoch": {}, "time": {}, "train": {}, "eval": {}}
    marked = False
    for name, value in row.items():
        column = known[name]
        if column.role == "mark":
            marked = marked or (isinstance(value, str) and value.strip().lower() in EVALUATION)
        elif column.role and isinstance(value, int | float) and not (name in filled and value != value):
            places[column.role].setdefault(column.name, float(value))
    step = next((places["step"][name] for name in STEPS if name in places["step"]), None)
    stamp = next((places["time"][name] for name in TIMES if name in places["time"]), 0.0)
    # Seconds since the epoch or since the start; ns and ms stamps are larger than any of these.
    time = int(stamp if stamp > 1e17 else stamp * 1e6 if stamp > 1e11 else stamp * 1e9) if math.isfinite(stamp) else 0
    epoch = next((places["epoch"][name] for name in EPOCHS if name in places["epoch"]), None)
    place = int(step) if step is not None and math.isfinite(step) else number
    train, evaluation = places["train"], places["eval"]
    if marked:
        train, evaluation = {}, train | evaluation
    if train:
        yield events.Step(run=run, step=place, time=time, epoch=epoch, metrics=train)
    if evaluation:
        yield events.Eval(run=run, step=place, time=time, metrics=evaluation)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as names with slashes; numbers in quotes as numbers, stamps as seconds."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            if name.lower() not in SETTINGS:
                made |= _flat(value, prefix if name.lower() in WRAPPERS else f"{prefix}{name}/")
        elif isinstance(value, str):
            made[prefix + name] = _number(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            made[prefix + name] = value
    return made


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        pass
    if text[4:5] == "-" and text[7:8] == "-":
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            pass
    return text


def _filled(rows: list[dict[str, Any]], names: Iterable[str]) -> set[str]:
    """Columns in which NaN means that nothing was logged: most of them, and numbers come back again and again."""
    found = set()
    for name in names:
        values = [row[name] for row in rows if isinstance(row.get(name), float)]
        missing = sum(value != value for value in values)
        if missing > FILLED * len(values):
            back = sum(late == late and early != early for early, late in pairwise(values))
            if back >= COMES_BACK:
                found.add(name)
    return found


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
            if all(isinstance(_number(name), float) for name in names if name):
                hint = "The first line must name the columns, e.g. step,loss."
                raise DataError(f"{path}: the first line holds numbers and no names.", hint=hint, file=str(path), line=1)
            for line in table:
                cells = (cell.replace(",", ".") for cell in line) if delimiter == ";" else line
                yield {name: cell for name, cell in zip(names, cells, strict=False) if cell and name}

    return from_rows(_melted(rows(), path), path.stem, columns)


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
    if isinstance(first.get("kind"), str) and first["kind"] in events.BY_KIND and "source" in first:
        return (_event(row) for row in chain([first], lines) if row.get("kind") in events.BY_KIND)
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
            except ValueError as error:
                if number == 1:
                    raise _no_object(path, number, f": {error}") from error
                broken = (number, f": {error}")  # the last line may have been torn by a kill
                continue
            if not isinstance(row, dict):
                raise _no_object(path, number, " is no JSON object")
            yield row


def _no_object(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number}{what}.", hint="Each line must be a JSON object.", file=str(path), line=number)


def _event(row: dict[str, Any]) -> events.AnyEvent:
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
    except ValueError as error:
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
    table = {name: list(column.values()) if isinstance(column, dict) else column for name, column in content.items()}
    if not table or not all(isinstance(column, list) for column in table.values()) or len({len(one) for one in table.values()}) != 1:
        return None
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def _text(path: Path, columns: Mapping[str, str] | None) -> Iterator[events.AnyEvent]:
    """What a program has printed: names with numbers, ``iter 10: loss 2.31`` or ``{'loss': 2.31}``. Other lines are left out."""

    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                row = {name.strip(): float(value) for name, value in PAIR.findall(line)}
                if any("loss" in name.lower() for name in row):
                    yield row

    made = list(rows())
    if not made:
        raise DataError(f"{path} has no line with a loss.", hint="Lines must look like: step 10 loss 2.31 lr 1e-4.", file=str(path))
    return from_rows(made, path.stem, columns)
