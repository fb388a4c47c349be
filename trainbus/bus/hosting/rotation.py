"""A file that is kept within bounds: when it is full it becomes ``NAME.1``, the one before ``NAME.2``, and a new one begins."""

from __future__ import annotations

import contextlib
import fcntl
import os
from glob import escape
from pathlib import Path

from trainbus.bus.home import private_directory


class RotatingFile:
    """``path`` and what was rotated away from it: at most ``files`` files of ``size`` bytes (one write may be longer).

    A disk that is full costs what was to be kept and nothing else: it is counted, and whoever writes goes on. While it is open the file is
    locked (shared), so that `upkeep` leaves it alone.
    """

    def __init__(self, path: Path, size: int, files: int) -> None:
        self.path = path
        self.errors = 0
        self._size, self._files = size, files
        self._handle: int | None = None
        self._written = 0

    def write(self, data: bytes) -> None:
        """Append ``data`` whole to one file."""
        try:
            handle = self._opened()
            if self._written and self._written + len(data) > self._size:
                handle = self._rotated()
            while data:
                written = os.write(handle, data)
                self._written += written
                data = data[written:]
        except OSError:
            self.errors += 1

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _opened(self) -> int:
        if self._handle is not None and os.fstat(self._handle).st_nlink == 0:  # somebody has removed it: nobody would read what comes
            self.close()
        if self._handle is None:
            private_directory(self.path.parent)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._written = os.fstat(self._handle).st_size
        return self._handle

    def _rotated(self) -> int:
        """Oldest first: a kill between two renames leaves a number out, and loses nothing."""
        self.close()
        for number in range(self._files - 1, 0, -1):
            older = rotated(self.path, number - 1)
            if older.exists():
                older.replace(rotated(self.path, number))
        if self._files == 1:
            self.path.unlink(missing_ok=True)
        return self._opened()


def rotated(path: Path, number: int) -> Path:
    """The file that was rotated away ``number`` times."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def parts(path: Path) -> list[Path]:
    """The files of a log that are there, oldest first."""
    numbered = [
        (int(suffix), other)
        for other in path.parent.glob(f"{escape(path.name)}.*")
        if (suffix := other.name.removeprefix(f"{path.name}.")).isdecimal()
    ]
    older = [other for _, other in sorted(numbered, reverse=True)]
    return [*older, path] if path.exists() else older
