"""Files, with the position up to which they are whole: what a crash left beyond is cut off, so that every event is in them once.

The ledger lies beside the files, in SQLite: the lengths of the files and the position change in one transaction, after the data has
been synced to the disk. At the start each file is cut to the length that the ledger says; new files that it only intended are removed
when their events are written again. Whoever deletes the folder gets everything that the journal has anew; whoever puts it under
another journal gets that one's events behind what is there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainbus.plugins.sinks.outflow import SinkError

FILE = ".trainbus-position.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, length INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intended (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Ledger:
    """The files of a folder.

    Args:
        folder: Where they are.
        journal: Whose offsets the position is of.

    Raises:
        SinkError: Folder or ledger can't be used.
    """

    def __init__(self, folder: Path, journal: str) -> None:
        self.folder = folder
        self._journal = journal
        try:
            self._database = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(SCHEMA)
            row = self._database.execute("SELECT journal, offset FROM position").fetchone()
            self.position: int = row[1] if row is not None and row[0] == journal else -1
            self.lengths: dict[str, int] = dict(self._database.execute("SELECT name, length FROM files"))
            self._cut()
        except (OSError, sqlite3.Error) as error:
            raise SinkError(f"{folder} can't be used: {error}.", hint="Is the disk full, or the folder another's?") from error

    def append(self, pieces: Mapping[str, bytes], upto: int) -> None:
        """Append a piece to each of some files and move the position: all of it, or after a crash nothing.

        Raises:
            OSError: A piece can't be written. The next call must bring the same events again, first.
        """
        grown = {}
        for name, piece in pieces.items():
            path = self.folder / name
            length = self.lengths.get(name, 0)
            new = not path.exists()
            if new:
                path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if not new else "xb") as stream:
                stream.seek(length)  # over what an earlier try has left: this one has the same events, and perhaps more
                stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                sync_folder(path.parent)
            grown[name] = length + len(piece)
        self._commit(grown, upto)

    def put(self, files: Mapping[str, Callable[[Path], None]], upto: int) -> None:
        """Make new files, each of which appears whole, and move the position: all of it, or after a crash nothing.

        Args:
            files: By name, what writes one to the path that it is given.
            upto: The new position.

        Raises:
            OSError: A file can't be written.
        """
        if not files:
            self._commit({}, upto)
            return
        self._forget_intended()
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO intended VALUES (?)", [(name,) for name in files])
        for name, write in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            sync_folder(path.parent)
        with self._transaction():
            self._database.execute("DELETE FROM intended")
            self._move(upto)
        self.position = upto

    def close(self) -> None:
        """Release the ledger."""
        self._database.close()

    def _commit(self, grown: Mapping[str, int], upto: int) -> None:
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", grown.items())
            self._move(upto)
        self.lengths |= grown
        self.position = upto

    def _move(self, upto: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO position VALUES (0, ?, ?)", (self._journal, upto))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _forget_intended(self) -> None:
        """Remove what an earlier try, or a crash, has left of new files."""
        for (name,) in self._database.execute("SELECT name FROM intended").fetchall():
            path = self.folder / name
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.part").unlink(missing_ok=True)  # where `trainbus.bus.export` writes first

    def _cut(self) -> None:
        for name, length in list(self.lengths.items()):
            path = self.folder / name
            size = path.stat().st_size if path.exists() else -1
            if size > length:
                os.truncate(path, length)
            elif size < length:  # somebody deleted or cut it: it begins anew where it ends
                self.lengths[name] = max(size, 0)


def sync_folder(path: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_name(run: str) -> str:
    """A run's id as a name of a file. The ids that trainbus makes stay as they are."""
    safe = "".join(sign if sign.isalnum() or sign in "._-@+=" else "-" for sign in run)[:150]
    return safe.lstrip(".") or "run"
