"""The journal file: its tables, how a new one comes into being, and what is refused.

A file is judged by its first 100 bytes before SQLite may touch it: opening a database can already change it (a checkpoint,
a rollback), and a journal of a newer trainbus must stay as it is.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
import time
from pathlib import Path

from trainbus.errors import JournalError

SCHEMA = 1
"""Kept in SQLite's user_version. Raised with each change of the tables below, together with a migration."""

APPLICATION_ID = 0x74726E62  # "trnb"

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"

# The unique index is what makes "exactly once" a property of the file and not only of the code above it. It costs about 0.3
# of the 2.1 us of CPU that SQLite spends on an event, which the throughput bar allows (benchmarks/broker.py). The index on
# (run, kind) also holds the offset, so that one topic's events are found in offset order without sorting.
_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE events(
  offset INTEGER PRIMARY KEY, run INTEGER NOT NULL, kind INTEGER NOT NULL, source INTEGER NOT NULL, seq INTEGER NOT NULL,
  time INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX events_by_source ON events(source, seq);
CREATE INDEX events_by_topic ON events(run, kind);
CREATE TABLE sources(
  source TEXT PRIMARY KEY, id INTEGER NOT NULL UNIQUE, run TEXT NOT NULL, expected INTEGER NOT NULL, name TEXT NOT NULL,
  host TEXT NOT NULL, pid INTEGER NOT NULL, owner INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE kinds(kind TEXT PRIMARY KEY, id INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE runs(
  run TEXT PRIMARY KEY, id INTEGER NOT NULL UNIQUE, name TEXT NOT NULL, state TEXT NOT NULL, started INTEGER NOT NULL,
  updated INTEGER NOT NULL, last_step INTEGER, total_steps INTEGER, host TEXT NOT NULL, events INTEGER NOT NULL, reason TEXT NOT NULL,
  owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE topics(
  run INTEGER NOT NULL, kind INTEGER NOT NULL, last INTEGER NOT NULL, events INTEGER NOT NULL, PRIMARY KEY(run, kind)) WITHOUT ROWID;
CREATE TABLE consumers(consumer TEXT PRIMARY KEY, offset INTEGER NOT NULL, updated INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE consumer_state(
  consumer TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(consumer, key)) WITHOUT ROWID;
CREATE TABLE dead_letters(
  consumer TEXT NOT NULL, offset INTEGER NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL, time INTEGER NOT NULL,
  PRIMARY KEY(consumer, offset)) WITHOUT ROWID;
CREATE TABLE leases(
  id TEXT PRIMARY KEY, resource TEXT NOT NULL, holder TEXT NOT NULL, mode TEXT NOT NULL, reason TEXT NOT NULL, ttl REAL NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE commands(
  id TEXT PRIMARY KEY, run TEXT NOT NULL, offset INTEGER NOT NULL, verb TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
"""


def create(path: Path) -> None:
    """Make an empty journal: whole under its name, or not there at all.

    It is built under another name in rollback mode, so that its header is in the file itself (and not in a write-ahead log)
    from the first moment on: `check_header` relies on that.

    Raises:
        JournalError: The folder or the disk does not allow it.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA}")
            connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
            facts = {"journal": secrets.token_hex(8), "head": -1, "deleted": 0, "created": time.time_ns()}
            connection.executemany("INSERT INTO meta VALUES(?, ?)", facts.items())
        finally:
            connection.close()
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, sqlite3.Error) as error:
        fresh.unlink(missing_ok=True)
        problem = f"The journal {path} can't be created: {error}."
        raise JournalError(problem, hint="Check free disk space and the folder's rights.", file=str(path)) from error


def check_header(path: Path) -> None:
    """Refuse a file that is no journal of ours, or one of a newer trainbus, without opening it as a database.

    Raises:
        JournalError: With the reason; the file is untouched.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise JournalError(f"{path} can't be read: {error.strerror}.", hint="Check the file's rights.", file=str(path)) from error
    aside = "Move it aside, or set TRAINBUS_HOME to another folder."
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise JournalError(f"{path} is no SQLite database.", hint=aside, file=str(path))
    (version,) = struct.unpack(">I", header[60:64])
    (application,) = struct.unpack(">I", header[68:72])
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is a SQLite database, but no trainbus journal.", hint=aside, file=str(path))
    if version > SCHEMA:
        raise JournalError(
            f"{path} has schema version {version}; this trainbus knows versions up to {SCHEMA}.",
            hint=f"A newer trainbus wrote it: upgrade this one. {aside}",
            file=str(path),
            found=version,
            allowed=SCHEMA,
        )
