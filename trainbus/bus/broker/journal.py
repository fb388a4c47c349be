"""The journal: an append-only table of events in SQLite, and what must change in one transaction with it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from trainbus.bus import home
from trainbus.bus.broker import schema
from trainbus.bus.broker.batch import Batch, Contents, Delete, Row
from trainbus.bus.broker.lock import ExclusiveLock
from trainbus.bus.broker.records import RECORDS, Change, Record, Tables
from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import JournalError

BUSY_TIMEOUT = 2.0
"""Seconds that one append waits for somebody else's lock on the database (a person's sqlite3 shell) before it fails."""

CHECKPOINT_PAGES = 4_000
"""Pages (of 4 KiB) in the write-ahead log at which it is copied back: fewer, larger copies than SQLite's 1,000."""

WAL_BYTES_KEPT = 64 * 1024 * 1024
"""The write-ahead log file is cut back to this after a long reader made it grow."""

VACUUM_PAGES = 2_000
"""Free pages given back to the file system by one transaction: 8 MiB, some milliseconds."""

VACUUM_ROUNDS = 64
"""Such transactions after one deletion, at most: 512 MiB. Events of common size need one or two."""

# Rows of one INSERT. sqlite3 gives up the GIL for each statement and has to win it back from the receiving thread: one row
# a statement came down to 1,800 rows/s beside a busy thread, 512 rows to 57,000. The smaller sizes take the remainder.
INSERT_ROWS = (512, 64, 8, 1)
_COLUMNS = 7
_INSERTS = {rows: "INSERT INTO events VALUES" + ",".join(["(?,?,?,?,?,?,?)"] * rows) for rows in INSERT_ROWS}

_PUT = {
    record.TABLE: f"INSERT OR REPLACE INTO {record.TABLE} VALUES({','.join('?' * len(record.__struct_fields__))})" for record in RECORDS
}
_DROP = {
    record.TABLE: f"DELETE FROM {record.TABLE} WHERE " + " AND ".join(f"{name}=?" for name in record.__struct_fields__[: record.KEYS])
    for record in RECORDS
}

_HINTS = {
    sqlite3.SQLITE_FULL: "Free some disk space. Nothing is acknowledged until then; publishers keep their events in their spools.",
    sqlite3.SQLITE_BUSY: "Another process holds the journal's lock: close it. Publishers keep their events until then.",
}

_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
"""Errors of a full or write-protected disk; a damaged file gives SQLITE_CORRUPT or SQLITE_NOTADB."""


class _Facts(msgspec.Struct, frozen=True):
    """The rows of the table ``meta`` that count here."""

    journal: str
    head: int
    deleted: int


class JournalStats(msgspec.Struct, frozen=True):
    """What this journal object has done since it was opened."""

    commits: int
    events: int
    failures: int
    bytes: int


class Journal:
    """The one writer of a journal file. Used by one thread at a time.

    Args:
        path: The database; created (with its folder) when it does not exist.
        synchronous: SQLite's setting. FULL: what `append` returned from survives power loss.

    Raises:
        JournalError: Another broker has it, or it is no journal, or one of a newer version, or it is damaged. Nothing is changed then.
    """

    def __init__(self, path: Path, *, synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL") -> None:
        self.path = path
        home.private_directory(path.parent)
        self._commits = self._events = self._failures = 0
        self._lock = ExclusiveLock(path.with_name(path.name + ".lock"))
        try:
            if path.exists():
                schema.check_header(path)
            else:
                schema.create(path)
            self._connection = self._connect(synchronous)
            try:
                self.contents = self._load()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def append(self, batch: Batch) -> int:
        """Commit a batch: all of it or nothing.

        Returns:
            The number of events that the batch's `Delete` deleted.

        Raises:
            JournalError: It is not committed. The journal is as before, and the next append may work.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._insert(batch.rows)
            self._change(batch.changes)
            deleted = self._delete(batch.delete) if batch.delete else 0
            connection.execute("UPDATE meta SET value=? WHERE key='head'", (batch.head,))
            connection.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            self._failures += 1
            self._rollback()
            raise self._explained(error) from error
        self._commits += 1
        self._events += len(batch.rows)
        if batch.delete:
            self._give_back(batch.delete, deleted)
        return deleted

    def close(self) -> None:
        """Fold the write-ahead log into the file and let another broker have it."""
        self._connection.close()
        self._lock.release()

    def bytes(self) -> int:
        """Size on disk, write-ahead log included."""
        return sum(file.stat().st_size for file in (self.path, self.path.with_name(self.path.name + "-wal")) if file.exists())

    def stats(self) -> JournalStats:
        """Counters since opening."""
        return JournalStats(commits=self._commits, events=self._events, failures=self._failures, bytes=self.bytes())

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        # Opened in one thread, then used by the committer's; `Journal` promises one at a time.
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
        except (sqlite3.Error, UnicodeError) as error:  # the damaged schema that SQLite's message quotes may be no UTF-8
            connection.close()
            raise self._unusable(error) from error
        return connection

    def _load(self) -> Contents:
        """Everything but the events; reads enough to notice a damaged file."""
        try:
            facts = msgspec.convert(dict(self._connection.execute("SELECT key, value FROM meta")), _Facts)
            tables = Tables()
            for table, record in zip(tables.all(), RECORDS, strict=True):
                names = record.__struct_fields__
                for row in self._connection.execute(f"SELECT {','.join(names)} FROM {record.TABLE}"):
                    table.put(msgspec.convert(dict(zip(names, row, strict=True)), record, strict=False))
            tables.commit()
            (last,) = self._connection.execute("SELECT MAX(offset) FROM events").fetchone()
            contents = Contents(journal=facts.journal, head=facts.head, deleted=facts.deleted, tables=tables)
        except (sqlite3.Error, *DECODE_ERRORS) as error:
            raise self._unusable(error) from error
        if last is not None and last > contents.head:
            raise self._unusable(f"event {last} lies beyond the head {contents.head}")
        return contents

    def _insert(self, rows: Sequence[Row]) -> None:
        values = list(chain.from_iterable(rows))
        at = 0
        for size in INSERT_ROWS:
            step = size * _COLUMNS
            while len(values) - at >= step:
                self._connection.execute(_INSERTS[size], values[at : at + step])
                at += step

    def _change(self, changes: Sequence[Change]) -> None:
        for table, key, record in changes:
            if isinstance(record, Record):
                self._connection.execute(_PUT[table], msgspec.structs.astuple(record))
            else:
                self._connection.execute(_DROP[table], key if isinstance(key, tuple) else (key,))

    def _delete(self, delete: Delete) -> int:
        chosen, values = "offset>=? AND offset<=? ORDER BY offset", [delete.first, delete.upto, delete.limit]
        if delete.run is not None:
            chosen, values = "run=? AND offset>=? AND offset<=?", [delete.run, *values]
        sql = f"DELETE FROM events WHERE offset IN (SELECT offset FROM events WHERE {chosen} LIMIT ?)"
        deleted = self._connection.execute(sql, values).rowcount
        self._connection.execute("UPDATE meta SET value=value+? WHERE key='deleted'", (deleted,))
        return deleted

    def _give_back(self, delete: Delete, deleted: int) -> None:
        """Give freed pages to the file system; a failure costs disk space only and is retried by the next deletion."""
        try:
            for _ in range(VACUUM_ROUNDS if deleted else 0):
                # As a script: `execute` takes one step of a statement without columns, and each step frees one page.
                self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
                if not self._connection.execute("PRAGMA freelist_count").fetchone()[0]:
                    break
            if delete.fold and deleted < delete.limit:
                # The file itself gets shorter when the log is folded in. A reader in the middle of the file makes this wait
                # `BUSY_TIMEOUT` and give up: a later commit folds, too.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            self._failures += 1

    def _rollback(self) -> None:
        # After some errors (disk full, I/O) SQLite has rolled back by itself, and a ROLLBACK would be an error of its own.
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._failures += 1

    def _explained(self, error: Exception) -> JournalError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        hint = _HINTS.get(code, "Check the disk. Publishers keep their events until it works again.")
        return JournalError(f"The journal {self.path} can't be written: {error}.", hint=hint, file=str(self.path), found=str(error))

    def _unusable(self, error: object) -> JournalError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM:
            free = shutil.disk_usage(self.path.parent).free
            return JournalError(
                f"The journal {self.path} can't be opened: {error}; {free / 2**20:,.1f} MiB are free on its disk.",
                hint="Free some disk space, or look at the rights of the folder and its files. Publishers keep their events until then.",
                file=str(self.path),
                free=free,
            )
        return JournalError(
            f"The journal {self.path} is damaged or can't be opened: {error}.",
            hint="Restore it from a copy, or move it (with its -wal and -shm files) aside: a new one is made, "
            "and publishers send again what they still hold.",
            file=str(self.path),
        )
