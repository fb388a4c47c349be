"""A journal looked at and copied from outside, while a broker writes it: read-only connections, each on one snapshot."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from trainbus.bus.broker import schema
from trainbus.bus.home import private_directory
from trainbus.errors import JournalError

SQLITE_ERRORS = (sqlite3.Error, UnicodeError)
"""What reading a damaged file raises: SQLite's message may quote a schema that is no UTF-8, and then it is the message that fails."""

SHOWN_FAULTS = 20
"""A damaged file has thousands."""


_TOPICS = """
SELECT r.run, k.kind, COUNT(*), SUM(LENGTH(e.body)) FROM events e JOIN runs r ON r.id=e.run JOIN kinds k ON k.id=e.kind
GROUP BY e.run, e.kind ORDER BY 4 DESC
"""


class Topic(Struct, frozen=True, kw_only=True):
    """How many events of a kind a run has, and what their bodies take."""

    run: str
    kind: str
    events: int
    bytes: int


class Contents(Struct, frozen=True, kw_only=True):
    """What a journal holds. Times are nanoseconds since the epoch; None when it is empty."""

    path: str
    journal: str
    schema: int
    events: int
    head: int
    bytes: int
    log_bytes: int
    free_bytes: int
    oldest: int | None
    newest: int | None
    topics: list[Topic]


def describe(path: Path) -> Contents:
    """Sizes and counts.

    Raises:
        JournalError: It can't be read, or a newer trainbus wrote it.
    """
    with closing(open_readonly(path)) as connection:
        try:
            facts = dict(connection.execute("SELECT key, value FROM meta"))
            page, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "freelist_count"))
            oldest, newest = (_time(connection, way) for way in ("ASC", "DESC"))
            topics = [Topic(run=run, kind=kind, events=count, bytes=size) for run, kind, count, size in connection.execute(_TOPICS)]
            (events,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except SQLITE_ERRORS as error:
            raise unreadable(path, error) from error
    log = path.with_name(f"{path.name}-wal")
    return Contents(
        path=str(path),
        journal=str(facts.get("journal", "")),
        schema=version,
        events=events,
        head=facts.get("head", -1),
        bytes=path.stat().st_size,
        log_bytes=log.stat().st_size if log.exists() else 0,
        free_bytes=free * page,
        oldest=oldest,
        newest=newest,
        topics=topics,
    )


def faults(path: Path, *, thorough: bool = False) -> list[str]:
    """What is wrong with a journal; nothing, when it is whole.

    Args:
        path: The file.
        thorough: Also compare each index with its table, which takes several times as long.

    Raises:
        JournalError: It can't be opened at all, or a newer trainbus wrote it.
    """
    with closing(open_readonly(path)) as connection:
        try:
            connection.execute("BEGIN")  # one snapshot for all that follows
            check = "integrity_check" if thorough else "quick_check"
            found = [str(row[0]) for row in connection.execute(f"PRAGMA {check}({SHOWN_FAULTS})") if row[0] != "ok"]
            facts = dict(connection.execute("SELECT key, value FROM meta"))
            last, count = connection.execute("SELECT COALESCE(MAX(offset), -1), COUNT(*) FROM events").fetchone()
        except SQLITE_ERRORS as error:
            return [str(error)]
    head, deleted = facts.get("head"), facts.get("deleted")
    if not isinstance(head, int) or not isinstance(deleted, int):
        return [*found, "its head or its count of deleted events is no number"]
    if last > head:
        found.append(f"event {last} lies beyond the head {head}")
    if count != head + 1 - deleted:
        found.append(f"{count:,} events are there, {head + 1 - deleted:,} should be")
    return found


def journal_id(path: Path) -> str:
    """The id that offsets and cursors of this journal belong to.

    Raises:
        JournalError: It can't be read, or a newer trainbus wrote it.
    """
    with closing(open_readonly(path)) as connection:
        try:
            row = connection.execute("SELECT value FROM meta WHERE key='journal'").fetchone()
            return str(row[0]) if row else ""
        except SQLITE_ERRORS as error:
            raise unreadable(path, error) from error


def back_up(path: Path, target: Path) -> int:
    """Copy a journal as it is at this moment, without free pages; its bytes. It appears whole under its name or not at all.

    Raises:
        JournalError: It can't be read, ``target`` is there already, or can't be written.
    """
    if target.exists():
        raise JournalError(f"{target} is there already.", hint="Name another file, or remove it first.", file=str(target))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        private_directory(target.absolute().parent)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # SQLite takes an empty file, and keeps its mode
        with closing(open_readonly(path)) as connection:
            # Not SQLite's backup API: that begins anew whenever the broker commits, which it does all the time.
            connection.execute("VACUUM INTO ?", (str(partial),))
        handle = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.replace(target)
    except (*SQLITE_ERRORS, OSError) as error:
        raise JournalError(
            f"{path} can't be copied to {target}: {error}.", hint="Check the disk's room and the folder's rights.", file=str(target)
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _time(connection: sqlite3.Connection, way: str) -> int | None:
    """Of the first or the last event, by offset."""
    row = connection.execute(f"SELECT time FROM events ORDER BY offset {way} LIMIT 1").fetchone()
    return row[0] if row else None


def open_readonly(path: Path) -> sqlite3.Connection:
    """A connection that can't change the journal.

    Raises:
        JournalError: There is none, or a newer trainbus wrote it.
    """
    schema.check_header(path)
    try:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except SQLITE_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: object) -> JournalError:
    """What a person is told of SQLite's error."""
    return JournalError(
        f"The journal {path} can't be read: {error}.", hint="`trainbus journal check` says what is damaged.", file=str(path)
    )
