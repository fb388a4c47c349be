"""Reading the journal: pages of events in offset order, from a read-only connection of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainbus.bus import events, wire
from trainbus.errors import JournalError

MAX_PAGE_EVENTS = 10_000
"""A page never holds more, whatever a request asks for."""

SCAN_WINDOW = 100_000
"""Offsets that one page looks through for rare events before it returns what it has (some 50 ms): nobody waits behind a long scan."""

MERGED_TOPICS = 24
"""Up to so many topics are read through the index, each in offset order, and merged by SQLite."""

_FETCH = 256


class HistoryReader:
    """Answers `wire.History` requests. Used by the thread that created it.

    Raises:
        JournalError: There is no journal at ``path``, or it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise JournalError(
                f"The journal {path} can't be opened: {error}.", hint="`trainbus status` shows which journal is in use."
            ) from error

    def page(self, request: wire.History, head: int) -> wire.Page:
        """The next part of the history, up to ``request.upto`` and never beyond ``head``.

        Raises:
            JournalError: The journal can't be read.
        """
        upto = head if request.upto is None else min(request.upto, head)
        after = max(request.after, -1)
        try:
            found, scanned = self._select(request, after, upto)
        except (sqlite3.Error, UnicodeError) as error:
            raise JournalError(f"The journal {self.path} can't be read: {error}.", hint="Check the disk.", file=str(self.path)) from error
        return wire.Page(events=found, next=max(scanned, after), head=head, done=scanned >= upto)

    def newest(self) -> int:
        """The last offset that was ever given out (its event may be deleted); -1 in a new journal."""
        return self._fact("head")

    def count(self) -> int:
        """Number of events that are there."""
        return self._fact("head") + 1 - self._fact("deleted")

    def oldest(self) -> int | None:
        """Offset of the oldest event that is still there."""
        found: int | None = self._connection.execute("SELECT MIN(offset) FROM events").fetchone()[0]
        return found

    def first_since(self, time: int) -> int | None:
        """Offset of the oldest event, in offset order, whose time is not before ``time``."""
        row = self._connection.execute("SELECT offset FROM events WHERE time>=? ORDER BY offset LIMIT 1", (time,)).fetchone()
        return row[0] if row else None

    def nth(self, count: int) -> int | None:
        """Offset of the ``count``-th oldest event, counted from 1."""
        row = self._connection.execute("SELECT offset FROM events ORDER BY offset LIMIT 1 OFFSET ?", (count - 1,)).fetchone()
        return row[0] if row else None

    def used_bytes(self) -> int:
        """Bytes in use within the database file: free pages don't count."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _fact(self, key: str) -> int:
        return int(self._connection.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()[0])

    def _select(self, request: wire.History, after: int, upto: int) -> tuple[list[tuple[int, bytes]], int]:
        """Events, and the offset up to which nothing more will be found."""
        limit = min(max(request.limit, 1), MAX_PAGE_EVENTS)
        if after >= upto:
            return [], upto
        if not request.kinds and not request.runs:
            rows = self._connection.execute(
                "SELECT offset, body FROM events WHERE offset>? AND offset<=? ORDER BY offset LIMIT ?", (after, upto, limit + 1)
            )
            return _collect(rows, limit, upto)
        topics = self._topics(request.kinds, request.runs, after)
        if not topics:
            return [], upto
        if len(topics) <= MERGED_TOPICS and sum(count for _, _, count in topics) * 4 <= upto - after:
            part = "SELECT offset, body FROM events WHERE run={} AND kind={} AND offset>?1 AND offset<=?2"
            merged = " UNION ALL ".join(part.format(run, kind) for run, kind, _ in topics)
            rows = self._connection.execute(f"{merged} ORDER BY offset LIMIT ?3", (after, upto, limit + 1))
            return _collect(rows, limit, upto)
        # The topics make up much of the journal: reading along the primary key beats a lookup for each row. The unary plus
        # keeps SQLite from taking the index and sorting all that it finds for every page.
        runs = ",".join(str(run) for run in {run for run, _, _ in topics})
        kinds = ",".join(str(kind) for kind in {kind for _, kind, _ in topics})
        end = min(upto, after + SCAN_WINDOW)
        rows = self._connection.execute(
            "SELECT offset, body FROM events WHERE offset>? AND offset<=?"
            f" AND +run IN ({runs}) AND +kind IN ({kinds}) ORDER BY offset LIMIT ?",
            (after, end, limit + 1),
        )
        return _collect(rows, limit, end)

    def _topics(self, kinds: Sequence[str], runs: Sequence[str], after: int) -> list[tuple[int, int, int]]:
        """Run, kind and number of events of each topic that was asked for and has events beyond ``after``."""
        sql = "SELECT t.run, t.kind, t.events FROM topics t JOIN runs r ON r.id=t.run JOIN kinds k ON k.id=t.kind WHERE t.last>?"
        values: list[int | str] = [after]
        for column, names in (("k.kind", kinds), ("r.run", runs)):
            if names:
                sql += f" AND {column} IN ({','.join('?' * len(names))})"
                values += names
        return self._connection.execute(sql, values).fetchall()


def _collect(rows: sqlite3.Cursor, limit: int, end: int) -> tuple[list[tuple[int, bytes]], int]:
    """Up to ``limit`` events and `wire.MAX_BATCH_BYTES` (but at least one); the second value is where the next page goes on."""
    found: list[tuple[int, bytes]] = []
    size = 0
    while part := rows.fetchmany(_FETCH):
        size += sum(len(body) for _, body in part)
        found += part
        if size > wire.MAX_BATCH_BYTES or len(found) > limit:
            break
    else:
        return found, end
    while len(found) > 1 and (len(found) > limit or size > wire.MAX_BATCH_BYTES):
        size -= len(found.pop()[1])
    return found, found[-1][0]


def read_events(path: Path, *, kinds: Sequence[str] = (), runs: Sequence[str] = ()) -> Iterator[events.AnyEvent]:
    """All matching events of a journal file, in offset order, without a broker.

    Raises:
        JournalError: The journal can't be read.
    """
    reader = HistoryReader(path)
    try:
        head = reader.newest()
        after, done = -1, False
        while not done:
            page = reader.page(wire.History(after=after, kinds=list(kinds), runs=list(runs), limit=MAX_PAGE_EVENTS), head)
            yield from (events.decode(body, offset) for offset, body in page.events)
            after, done = page.next, page.done
    finally:
        reader.close()
