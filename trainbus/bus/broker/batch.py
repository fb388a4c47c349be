"""What one journal transaction writes."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct, field

from trainbus.bus.broker.records import Change, Tables

Row: TypeAlias = tuple[int, int, int, int, int, int, bytes]
"""An event in the journal: offset, run, kind and source (numbers of the small tables), seq, time, body."""


class Delete(Struct, frozen=True):
    """Delete up to ``limit`` of the oldest events at offsets ``first`` to ``upto``; of one run (by number), or of all.

    ``fold``: with the last of them, fold the write-ahead log into the file, so that the room is given back at once and not with
    some later commit. Somebody waits for it.
    """

    upto: int
    limit: int
    run: int | None = None
    first: int = 0
    fold: bool = False


class Batch(Struct):
    """Events and the changes of the small tables that belong to them: all of it is committed, or nothing."""

    head: int
    """Offset of the last event ever given out, this batch included."""
    rows: list[Row] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    delete: Delete | None = None


class Contents(Struct):
    """What an opened journal holds besides its events."""

    journal: str
    head: int
    deleted: int
    tables: Tables
