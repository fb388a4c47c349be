"""Whole tables of names and numbers as events: the columns are looked at together, so that names nobody has seen before find their meaning.

A row becomes a step event with what was logged in training, an eval event with what an evaluation gave, or both, in this order. What the
columns mean is told by `trainbus.sources.names`; a log that still grows is read row by row instead, by `trainbus.sources.rows`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain, pairwise
from typing import Any, Final

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.sources.names import EPOCHS, EVALUATION, STEPS, TIMES, Column, meanings

WRAPPERS: Final = frozenset({"metrics", "logs", "log", "scalars", "data", "values", "stats"})
"""Names of nested objects that say nothing."""
SETTINGS: Final = frozenset({"config", "args", "hparams", "hyperparameters", "params", "cfg", "meta", "system", "versions", "env"})
"""Names of nested objects whose numbers are settings."""
FILLED = 0.5
"""A column of which more than this part is NaN, and which comes back from NaN `COMES_BACK` times, has NaN for "not logged"."""
COMES_BACK = 3
MAX_STEP: Final = 2**63
"""What msgpack can hold; a larger one (or NaN) is no step."""


def from_rows(rows: Iterable[dict[str, Any]], run: str, columns: Mapping[str, str] | None = None) -> Iterator[events.AnyEvent]:
    """Rows of names and numbers as events. A row without a step gets the number of the row.

    Args:
        rows: In order.
        run: What the run is called.
        columns: As of `read`.

    Raises:
        DataError: A column that was chosen is not there.
    """
    flat = [flattened(row) for row in rows]
    names = dict.fromkeys(chain.from_iterable(flat))
    for meaning, column in (columns or {}).items():
        if column not in names:
            hint = f"It has: {', '.join(names)}."
            raise DataError(f"{run} has no column {column!r} for {meaning}.", hint=hint, key=meaning, found=column)
    known = meanings(names, columns)
    filled = _filled(flat, [name for name, column in known.items() if column.role in ("train", "eval")])
    for number, row in enumerate(flat):
        yield from events_of(number, row, known, filled, run)


def events_of(
    number: int, row: Mapping[str, Any], known: Mapping[str, Column], filled: Collection[str], run: str
) -> Iterator[events.Step | events.Eval]:
    """One flat row as a step, an eval, both or nothing.

    Args:
        number: Its step when it names none.
        row: Names and numbers.
        known: What the names mean.
        filled: Names of which a NaN says that nothing was logged.
        run: What the run is called.
    """
    places: dict[str, dict[str, float]] = {"step": {}, "epoch": {}, "time": {}, "train": {}, "eval": {}}
    marked = False
    for name, value in row.items():
        column = known[name]
        if column.role == "mark":
            marked = marked or (isinstance(value, str) and value.strip().lower() in EVALUATION)
        elif column.role and isinstance(value, int | float) and not (name in filled and value != value):
            places[column.role].setdefault(column.name, real(value))
    step = next((places["step"][name] for name in STEPS if name in places["step"]), None)
    time = nanoseconds(next((places["time"][name] for name in TIMES if name in places["time"]), 0.0))
    epoch = next((places["epoch"][name] for name in EPOCHS if name in places["epoch"]), None)
    place = int(step) if step is not None and abs(step) < MAX_STEP else number
    train, evaluation = places["train"], places["eval"]
    if marked:
        train, evaluation = {}, train | evaluation
    if train:
        yield events.Step(run=run, step=place, time=time, epoch=epoch, metrics=train)
    if evaluation:
        yield events.Eval(run=run, step=place, time=time, metrics=evaluation)


def flattened(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as names with slashes; numbers in quotes as numbers, stamps as seconds."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            if name.lower() not in SETTINGS:
                made |= flattened(value, prefix if name.lower() in WRAPPERS else f"{prefix}{name}/")
        elif isinstance(value, str):
            made[prefix + name] = as_number(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            made[prefix + name] = value
    return made


def nanoseconds(stamp: float) -> int:
    """A time in any unit as ns since the epoch, or since the start; 0 when it is none."""
    value = real(stamp)
    # Seconds are smaller than any stamp in ms or ns of these years.
    scaled = value if value > 1e17 else value * 1e6 if value > 1e11 else value * 1e9
    return int(scaled) if abs(scaled) < MAX_STEP else 0


def real(value: float) -> float:
    """A number as a float: a whole one that is too large for it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def as_number(text: str) -> float | str:
    """A cell as a number, a date as seconds since the epoch, anything else as it is."""
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
