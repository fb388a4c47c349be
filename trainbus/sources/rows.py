"""Rows one at a time, as a log that grows gives them: what their names mean is told as for whole tables, by the row's own names alone.

Time stands still unless the row tells it: rules about time stay silent then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainbus.bus import events
from trainbus.sources.names import of_row
from trainbus.sources.tables import MAX_STEP, events_of, flattened


def from_row(row: Mapping[str, Any], run: str, number: int) -> list[events.Step | events.Eval]:
    """One row as a step, an eval, both or nothing; ``number`` is its step when it names none. What is no number is left out."""
    flat = flattened(row)
    return list(events_of(number, flat, of_row(tuple(flat)), (), run))


def step_of(row: Mapping[str, Any]) -> int | None:
    """The step that a flat row names."""
    known = of_row(tuple(row))
    found = next((row[name] for name in row if known[name].role == "step"), None)
    return int(found) if isinstance(found, int | float) and abs(found) < MAX_STEP else None
