"""One broker for each journal."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from trainbus.errors import JournalError


class ExclusiveLock:
    """An advisory lock on a file that is held until `release`, or until the process ends in whatever way.

    Raises:
        JournalError: Somebody holds it; ``facts["pid"]`` says who.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{path} can't be created: {error.strerror}.", hint="Check the folder's rights.", file=str(path)) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._handle, 32).decode("ascii", "replace").strip()
            os.close(self._handle)
            pid = int(holder) if holder.isdecimal() else None
            who = f"process {pid}" if pid else "another process"
            raise JournalError(
                f"{path.with_suffix('')} is in use by {who}: one broker runs for each journal.",
                hint="Use the broker that runs (`trainbus status`), stop it (`trainbus down`), or set TRAINBUS_HOME to another folder.",
                file=str(path),
                pid=pid,
            ) from error
        with suppress(OSError):  # the disk is full: the lock holds all the same, it only can't say who has it
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have it. The file stays: unlinking it would let two holders lock two files of the same name."""
        os.close(self._handle)
