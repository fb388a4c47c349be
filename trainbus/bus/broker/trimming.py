"""What `trainbus journal trim` would delete: found out on the file, by a read-only connection, while the broker writes it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from trainbus.bus.broker.maintenance import SQLITE_ERRORS, open_readonly, unreadable
from trainbus.bus.broker.retention import SLACK

ROW_BYTES = 64
"""What an event takes in the file beside its body: its row's head and its places in two indexes."""

_SIZE = f"LENGTH(body)+{ROW_BYTES}"


class Trim(Struct, frozen=True, kw_only=True):
    """A part of the history: the events at offsets ``first`` to ``upto``, those of ``run`` alone or (``""``) of all runs.

    ``bytes`` is about what they take in the file. ``behind``: the consumers that have not read all of them.
    """

    run: str
    first: int
    upto: int
    events: int
    bytes: int
    behind: list[str]


def trim_of(path: Path, *, run: str = "", before: int | None = None, max_bytes: int | None = None) -> Trim | None:
    """What has to go so that the journal holds nothing from before a time, or fits into a size, or nothing of a run.

    Events go in the order of their offsets: one that is old by its stamp but came late (from a drained spool) stays as long as those
    before it.

    Args:
        path: The journal.
        run: Only this run's events.
        before: Nanoseconds since the epoch; older events go.
        max_bytes: Size of the database file that shall be reached. Not for one run.

    Returns:
        None when nothing has to go.

    Raises:
        JournalError: It can't be read, or a newer trainbus wrote it.
    """
    with closing(open_readonly(path)) as connection:
        try:
            connection.execute("BEGIN")  # one snapshot for all that follows
            upto = _last(connection, before, max_bytes)
            return None if upto is None else _described(connection, run, upto)
        except (*SQLITE_ERRORS, TypeError) as error:
            raise unreadable(path, error) from error


def _last(connection: sqlite3.Connection, before: int | None, max_bytes: int | None) -> int | None:
    """The last offset that goes; None when nothing does."""
    (head,) = connection.execute("SELECT value FROM meta WHERE key='head'").fetchone()
    last: int = head
    if before is not None:
        kept = connection.execute("SELECT offset FROM events WHERE time>=? ORDER BY offset LIMIT 1", (before,)).fetchone()
        last = kept[0] - 1 if kept else head
    if max_bytes is not None:
        pages, free, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
        used = (pages - free) * page
        if used <= max_bytes:
            return None
        (total,) = connection.execute(f"SELECT COALESCE(SUM({_SIZE}), 0) FROM events").fetchone()
        # By the share that each event has in the whole: pages are not quite full, and the small tables take some, too.
        surplus = total * (used - max_bytes * (1 - SLACK)) / used
        running = f"SELECT offset, SUM({_SIZE}) OVER (ORDER BY offset) AS freed FROM events"
        enough = connection.execute(f"SELECT offset FROM ({running}) WHERE freed>=? LIMIT 1", (surplus,)).fetchone()
        last = min(last, enough[0]) if enough else last
    return last


def _described(connection: sqlite3.Connection, run: str, upto: int) -> Trim | None:
    of_run = " AND run=(SELECT id FROM runs WHERE run=?2)" if run else ""
    sql = f"SELECT MIN(offset), MAX(offset), COUNT(*), SUM({_SIZE}) FROM events WHERE offset<=?1{of_run}"
    first, last, events, size = connection.execute(sql, (upto, run) if run else (upto,)).fetchone()
    if not events:
        return None
    behind = connection.execute("SELECT consumer FROM consumers WHERE offset<? ORDER BY consumer", (last,)).fetchall()
    return Trim(run=run, first=first, upto=last, events=events, bytes=size, behind=[name for (name,) in behind])
